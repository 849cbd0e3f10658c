"""The attack finds every recipe whose rows depend on their batch-mates, and none of the others."""

import pytest
import torch

import tiny
from roster import RosterError
from roster.analyze.attack import attack
from roster.moe.replacing import replace
from roster.recipes import RECIPES

MOE = [slug for slug, recipe in RECIPES.items() if recipe.kind == "moe"]


def routed(slug, options=None):
    torch.manual_seed(3)
    model = replace(tiny.base(), slug, options=options, tasks=("red", "green")).eval()
    # Routers that tell tokens apart; trained ones do.
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.mark.parametrize("slug", MOE)
def test_it_finds_what_the_record_says(slug):
    found = attack(routed(slug), victims=2, length=8, mates=5, attempts=6)
    assert found.vulnerable == (not RECIPES[slug].batch_invariant), found


@pytest.mark.parametrize(
    ("slug", "options", "vulnerable"),
    [
        ("switch-transformer", {"capacity": 1.0}, True),
        ("expert-choice", {"pool": "row"}, False),
        ("capacity-aware-inference", {"overflow": "order", "factor": 1.0}, True),
        ("capacity-aware-inference", {"factor": 8.0}, False),  # a capacity that no load reaches
    ],
)
def test_options_that_open_and_close_the_hole(slug, options, vulnerable):
    assert attack(routed(slug, options), victims=2, length=8, mates=5, attempts=6).vulnerable == vulnerable


def test_a_plain_model_is_safe_and_figures_are_consistent():
    safe = attack(tiny.base(), victims=3, length=6, mates=2, attempts=4)
    assert (safe.victims, safe.changed, safe.flipped, safe.flip_rate) == (3, 0, 0, 0.0)
    assert safe.largest < 1e-5
    open_ = attack(routed("expert-choice"), victims=4, length=8, mates=7, attempts=8)
    assert 0 <= open_.flipped <= open_.changed <= 4
    assert open_.largest > 1e-3


def test_the_same_seed_finds_the_same():
    model = routed("expert-choice")
    assert attack(model, victims=2, seed=4) == attack(model, victims=2, seed=4)


def test_bad_input():
    with pytest.raises(RosterError, match="mates"):
        attack(tiny.base(), mates=0)
    with pytest.raises(RosterError, match="evaluation mode"):
        attack(tiny.base().train())
    with pytest.raises(RosterError, match="tolerance"):
        attack(tiny.base(), tolerance=0.0)
