"""The checks themselves, in short runs: every contender runs, is the same at the same draw, and has luck of its own."""

import json
import math

import pytest

from evidence import registry
from evidence.grounds.field import error_of
from evidence.protocol.check import APART, Draw
from evidence.protocol.page import reasons
from roster.arena.paired import gain
from roster.recipes import RECIPES

QUICK = (
    "capacity-aware-inference.reroute", "expert-prototyping", "dynamic-moe-top-p.loss", "dynamic-moe-top-p.hard",
    "expert-choice", "gw-moe", "switch-transformer", "base-layers", "stratified-moe.loss", "stratified-moe.hard",
    "loss-free-balancing.error", "locmoe.crossing", "adatt.loss", "adatt.fusion", "mmoe-factorized.accuracy", "smear",
    "arrow-mbc", "phatgoose", "direct-nmt-task-moe", "active-ranking-experts", "banditeval", "adamoe.fillers",
    "automix", "grin.gradient", "polytropon", "x-moe.steady", "vqmoe", "evomoe", "stablemoe", "mowe", "maskmoe", "hmoe",
    "finedeep", "union-of-experts", "smoe-dropout.slope", "task-moe", "task-aware-moe.transfer", "uni-perceiver-moe",
    "cross-task-moe", "moec", "jiuzhang-2", "mpoe", "spatial-moe.location", "pmoe-patch-routing",
    "smora", "sira", "c-poly", "mhr", "omni-smola", "skillnet-nlg",
    "dee-online-ensemble-cl.soft", "dee-online-ensemble-cl.small", "seed-cl", "fedjets", "fsmoe.degrees",
    "fsmoe.gradients", "pamal", "palora", "mocle.conflict", "mocle.unseen", "intuition-mor1e", "hyperformer.match",
    "hyperformer.few", "scalearn", "graphmoe", "perft",
)  # fmt: skip
"""Those whose short run takes less than half a second and needs neither fetched texts nor a language model."""


@pytest.mark.parametrize("name", QUICK)
def test_every_contender_runs(name):
    check = registry.find(name)
    for contender, run in check.contenders.items():
        assert math.isfinite(run(Draw(0, 0, short=True))), contender


def test_a_search_is_run_for_a_few_steps():
    pytest.importorskip("optuna")
    test_every_contender_runs("hyperband")


def test_what_is_not_declared_has_a_reason():
    declared = {registry.find(name).declaration.slug for name in registry.MODULES}
    claimed = {slug for slug, recipe in RECIPES.items() if recipe.claim is not None}
    assert set(reasons(registry.FOLDER)) == claimed - declared


def test_a_draw_is_the_same_every_time_and_other_luck_is_another_run():
    run = registry.find("switch-transformer").contenders["Switch"]
    first = run(Draw(0, 0, short=True))
    assert run(Draw(0, 0, short=True)) == first
    assert len({first, run(Draw(0, APART, short=True)), run(Draw(1, 0, short=True))}) == 3


def test_a_null_and_a_control_at_small_size():
    """On the field of clusters, after 80 steps: a dense block is not told from itself, a wide one from a narrow one."""
    narrow, wide = (error_of("dense-active", hidden=units, steps=8000) for units in (4, 64))
    draws = [Draw(seed, seed, short=True) for seed in range(6)]
    plain = [narrow(draw) for draw in draws]
    null = gain(plain, [narrow(Draw(draw.ground, draw.luck + APART, short=True)) for draw in draws], "lower")
    assert null.low < 0.02
    assert null.high > -0.02
    assert gain([wide(draw) for draw in draws], plain, "lower").against(0.02) == "shown"


def test_whatever_was_judged_before_is_declared():
    """Nothing is lost on the way from the checks that were there before the protocol."""
    declared = {registry.find(name).declaration.slug for name in registry.MODULES}
    before = json.loads((registry.FOLDER.parent / "docs/results/checks.json").read_text(encoding="utf-8"))["results"]
    assert set(before) <= declared
