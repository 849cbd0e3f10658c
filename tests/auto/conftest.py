"""A tiny random Llama with three adapters whose prompts use different letters, routed by `auto`; built once."""

import random
from dataclasses import replace

import pytest

import tiny
from roster.adapters.attach import attach
from roster.library import Library
from roster.recipes import RECIPES

LETTERS = {"expert 0": "abcd", "expert 1": "mnop", "expert 2": "wxyz"}


def prompts(name, count, seed=0):
    """Texts of one adapter's letters."""
    rng = random.Random(f"{name}/{seed}")
    return ["".join(rng.choices(LETTERS[name], k=rng.randint(6, 12))) for _ in range(count)]


def told(library, examples):
    """The library with these examples on its cards."""
    return Library(
        {
            name: replace(library[name], card=library[name].card.model_copy(update={"examples": examples[name]}))
            for name in examples
        }
    )


def routed(library, **options):
    return attach(
        tiny.base(), library, RECIPES["auto"](options), recipe="auto", options=options, tokenizer=tiny.Tokenizer()
    ).eval()


@pytest.fixture(scope="session")
def library():
    plain = tiny.library(tiny.base(), 3)
    return told(plain, {name: prompts(name, 12) for name in LETTERS})


@pytest.fixture(scope="session")
def model(library):
    found = routed(library)
    found.roster.base_name = "tiny/base"
    return found
