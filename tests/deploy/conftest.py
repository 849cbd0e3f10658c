"""A mixture of pocket experts that `auto` routes, its prompts, and the folders that are made of it."""

import pytest

from roster import load, pocket
from roster.library import Library
from roster.pocket.skills import examples

NAMES = ("reverse", "sort", "upper", "vowels")
NOBODY = ("Tell me about the sea.", "What is your name?")


def mixture():
    everything = Library.read(pocket.experts_path())
    few = Library({name: everything[name] for name in NAMES})
    return load("pocket", experts=few, router="auto").eval()


def asked(count=3):
    """(expert or None, prompt): prompts that are on no card, and nobody's."""
    own = [(name, each.prompt) for name in NAMES for each in examples(name, "test", count)]
    return [*own, *((None, prompt) for prompt in NOBODY)]


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """The mixture's folder."""
    folder = tmp_path_factory.mktemp("mixture") / "mixture"
    mixture().save_pretrained(folder)
    return folder
