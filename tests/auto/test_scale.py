"""Folders that are derived for the evidence of `auto`, and a library that is fitted on features read before."""

import pytest
import torch

import tiny
from auto.conftest import LETTERS, prompts
from evidence import auto_scale
from roster.auto.features import features_of
from roster.auto.fitting import fit_library, learn
from roster.auto.settings import Settings
from roster.library import Library
from roster.prompts import Rendering


class Ground:
    skills = tuple(LETTERS)

    def examples(self, skill):
        return prompts(skill, 12)


@pytest.fixture
def folder(monkeypatch):
    monkeypatch.setattr(auto_scale, "pool", lambda ground, skill: prompts(skill, 60))
    return auto_scale.members(Ground(), 33)


def test_a_folder_has_every_kind_of_every_skill_and_is_the_same_again(folder):
    assert [each.kind for each in folder[:3]] == ["trained"] * 3
    assert {(each.skill, each.kind) for each in folder[3:]} == {(s, k) for s in LETTERS for k in auto_scale.KINDS}
    assert len({each.name for each in folder}) == 33
    assert folder == auto_scale.members(Ground(), 33)
    own = {each.kind: each for each in folder if each.skill == "expert 1"}
    assert own["duplicate"].prompts == own["noisy"].prompts == Ground().examples("expert 1")
    assert len(own["run"].prompts) == auto_scale.OWN
    assert own["run"].prompts != own["half-trained"].prompts


def test_weights_are_the_origins_but_for_noise_and_half_of_the_update(folder, library):
    made = auto_scale.library_of(library, folder, weights=True)
    name = next(iter(library["expert 0"].modules))
    origin = library["expert 0"].modules[name]
    for each in (one for one in folder if one.skill == "expert 0"):
        found = made[each.name].modules[name]
        off = float((found.A_RD - origin.A_RD).std() / origin.A_RD.std())
        noise = {"run": auto_scale.RUN, "noisy": auto_scale.NOISY}.get(each.kind, 0.0)
        assert off == pytest.approx(noise, rel=0.2)
        assert found.scale == origin.scale * (auto_scale.HALF if each.kind == "half-trained" else 1.0)
    assert len({adapter.weights_hash for adapter in made.values()}) == 3 + sum(
        each.kind in ("run", "noisy", "half-trained") for each in folder
    )


def test_features_that_were_read_before_fit_the_same_classes(library):
    base, rendering, read = tiny.base(), Rendering(tiny.Tokenizer()), []

    def remembered(asked, places, tick):
        read.append(len(asked))
        return features_of(base, rendering, torch.tensor([-1]), asked, places)

    settings = Settings()
    expected, _ = learn(base, library, rendering, settings)
    found, _ = fit_library(base, Library(library), rendering, settings, remembered)
    for name, tensor in vars(expected).items():
        assert torch.equal(tensor, getattr(found, name)), name
    assert sum(read) == 3 * 12 + 64
