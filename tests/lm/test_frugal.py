"""FrugalGPT's chain against every chain there is, and AutoMix's meta-verifier against the source's table of values."""

import itertools

import numpy as np
import pytest

from lm import tiny
from roster.errors import RosterError
from roster.lm.curve import curve
from roster.lm.decide import Cascade
from roster.lm.estimate import Mean
from roster.lm.frugal import every_chain, frontier, search
from roster.lm.part import pack, unpack
from roster.lm.play import play
from roster.lm.verification import NEEDY, MetaVerifier, dial, self_verified, verification_prompt
from roster.recipes import RECIPES


def asked_in_turn(order, thresholds, score_M, sure_M, cost_M):
    """One prompt: (score kept, what was paid)."""
    paid = 0.0
    for place, m in enumerate(order):
        paid += cost_M[m]
        if place == len(order) - 1 or sure_M[m] >= thresholds[place]:
            return score_M[m], paid
    raise AssertionError


def test_the_chain_is_the_best_of_all_within_the_budget():
    rng = np.random.default_rng(0)
    score_NM = (rng.random((60, 3)) < [0.5, 0.6, 0.9]).astype(float)
    sure_NM = (0.5 * score_NM + 0.5 * rng.random((60, 3))).round(2)
    cost_NM = np.tile([1.0, 2.0, 10.0], (60, 1))
    order, threshold, quality, cost = search(score_NM, sure_NM, cost_NM, 5.0, longest=3, thresholds=4)
    best = 0.0
    for length in (1, 2, 3):
        for each in itertools.permutations(range(3), length):
            grids = [np.unique([*np.quantile(sure_NM[:, m], np.linspace(0, 1, 4)), 1.0]) for m in each[:-1]]
            for thresholds in itertools.product(*grids):
                played = [asked_in_turn(each, thresholds, *row) for row in zip(score_NM, sure_NM, cost_NM, strict=True)]
                mean = np.mean(played, axis=0)
                if mean[1] <= 5.0:
                    best = max(best, mean[0])
    assert quality == pytest.approx(best)
    again = np.mean([asked_in_turn(order, threshold, *r) for r in zip(score_NM, sure_NM, cost_NM, strict=True)], axis=0)
    assert again == pytest.approx([quality, cost])
    assert cost <= 5.0
    with pytest.raises(RosterError, match=r"no chain costs at most 0\.5"):
        search(score_NM, sure_NM, cost_NM, 0.5, 3, 4)


def test_the_dial_is_the_way_of_the_best_chains():
    """No chain of the grid is as cheap and better than the dial's, as replayed one prompt at a time."""
    rng = np.random.default_rng(3)
    score_NM = (rng.random((50, 3)) < [0.5, 0.6, 0.9]).astype(float)
    sure_NM = (0.5 * score_NM + 0.5 * rng.random((50, 3))).round(2)
    cost_NM = rng.uniform(0.5, 1.5, (50, 3)) * [1.0, 2.0, 10.0]
    found = every_chain(score_NM, sure_NM, cost_NM, longest=2, thresholds=4)
    rows = list(zip(score_NM, sure_NM, cost_NM, strict=True))
    again = [
        np.mean([asked_in_turn(order, thresholds, *row) for row in rows], axis=0)
        for order, thresholds in zip(found.order_C, found.threshold_C, strict=True)
    ]
    assert np.transpose([found.quality_C, found.cost_C]) == pytest.approx(np.array(again))
    dial_of = frontier(found.cost_C, found.quality_C)
    assert np.all(np.diff(found.cost_C[dial_of]) > 0)
    assert np.all(np.diff(found.quality_C[dial_of]) > 0)
    for quality, cost in again:
        reached = found.quality_C[dial_of][found.cost_C[dial_of] <= cost + 1e-12]
        assert reached.max() >= quality - 1e-12


def test_a_judged_chain_beats_every_mix_of_models_of_its_price():
    records = tiny.told_apart()
    train, test = records.split("train"), records.split("test")
    routing = RECIPES["frugalgpt"]({"thresholds": 3, "folds": 2}).fit(train)
    played = play(routing, test, timed=False).played
    mixes = curve(test.cost_NM.mean(0), test.score_NM.mean(0))
    assert (played.score_LN.mean(1) - mixes.quality_at(played.cost_LN.mean(1))).max() > 0.05
    with pytest.raises(RosterError, match="have no answers"):
        RECIPES["frugalgpt"]().fit(tiny.records(60))
    few = RECIPES["frugalgpt"]().fit(records.rows(np.arange(4)))
    with pytest.raises(RosterError, match="4 prompts have every score and cost; too few"):
        few.sweep(None)


def test_a_cascade_has_a_threshold_for_each_model_but_the_last():
    rule = Cascade(("cat-person", "dog-person", "dear-all-rounder"), (0.9, 0.2))
    estimates = Mean().fit(tiny.records(60)).estimate(["a"])
    assert [rule.next_below(estimates, asked, choice) for asked, choice in (([], 0), ([0], 1), ([0, 1], 2))] == [
        0.9, 0.2, None,
    ]  # fmt: skip
    again = unpack(*pack(rule), {"Cascade": Cascade})
    assert again.thresholds == (0.9, 0.2)
    with pytest.raises(RosterError, match="has 2 thresholds, not 1"):
        Cascade(("a", "b", "c"), (0.5,))


def sources_actions(share, small, large, bins, reward):
    """AutoMix's rule as its code has it: categories per bin, a row of values per action, the larger sum wins."""
    kinds = ["GOOD" if s else "NEEDY" if b else "HOPELESS" for s, b in zip(small, large, strict=True)]
    values = {"keep": (-reward, 0, -reward - 1), "ask": (-100, -100, -reward - 100)}
    actions = []
    for v in range(bins + 1):
        here = [k for k, p in zip(kinds, share, strict=True) if abs(p - v / bins) < 0.5 / bins]
        chance = [here.count(name) / len(here) for name in ("NEEDY", "GOOD", "HOPELESS")]
        sums = {name: sum(c * x for c, x in zip(chance, row, strict=True)) for name, row in values.items()}
        actions.append(sums["ask"] > sums["keep"])
    return actions


def test_the_meta_verifier_is_the_sources_decision_per_bin():
    rng = np.random.default_rng(1)
    small, large = (rng.random(900) < 0.6).astype(float), (rng.random(900) < 0.85).astype(float)
    share = rng.binomial(8, np.where(small > 0, 0.7, 0.35)) / 8
    verifier = MetaVerifier(8).fit(share, small, large)
    for reward in (0, 90, 150, 250, 400, 2000):
        assert verifier.escalates(reward).tolist() == sources_actions(share, small, large, 8, reward)
    rates = [verifier.escalates(reward)[verifier.bin(share)].mean() for reward in dial(verifier)]
    assert rates[0] == 0
    assert rates[-1] == (verifier.chance_V3[:, NEEDY] > 0)[verifier.bin(share)].mean()  # all where it may help
    assert np.all(np.diff(rates) >= 0)
    # What it escalates first is where help helps: better than the same number of prompts drawn at random.
    reward = dial(verifier)[3]
    asked = verifier.escalates(reward)[verifier.bin(share)]
    gain = np.where(asked, large, small).mean() - small.mean()
    assert gain > asked.mean() * (large.mean() - small.mean())
    assert np.argmin(verifier.confidence(np.arange(9) / 8)) < 4


def test_a_model_checks_its_own_answer():
    said = iter(["Hm. Correct", "That is wrong, so: Incorrect", "incorrect? No: it is correct.", "no idea"])
    seen = []

    def ask(prompt):
        seen.append(prompt)
        return next(said)

    assert self_verified(ask, "What is 2 + 2?", "4", samples=4) == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert set(seen) == {verification_prompt("What is 2 + 2?", "4")}
    assert "What is 2 + 2?" in seen[0]
    assert "the passage" in verification_prompt("q", "a", "the passage")
    with pytest.raises(RosterError, match="at least once"):
        self_verified(ask, "q", "a", samples=0)
