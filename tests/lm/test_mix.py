"""Mixes of two settings: what a curve promises is what the tuned, saved and served policy does."""

import numpy as np
import pytest

from lm import tiny
from roster.errors import RosterError
from roster.gateway.config import Model, Price
from roster.gateway.policies.folder import Folder
from roster.lm.curve import curve
from roster.lm.decide import Cascade, Mix, Weights
from roster.lm.dial import Setting, above, cost_to_reach, within
from roster.lm.estimate import Estimates, Mean
from roster.lm.offline import OfflinePolicy, load_policy
from roster.lm.routing import Routing
from roster.lm.tune import tune
from roster.recipes import RECIPES

MADE = tiny.records(600)
KNOWN = {name: Model(upstream="up", price=Price(input=1.0, output=1.0)) for name in MADE.models}
PROMPTS = [f"question {n} about a feline tabby" for n in range(4000)]


def estimates(quality, cost):
    quality, cost = np.atleast_2d(quality).astype(float), np.atleast_2d(cost).astype(float)
    names = tuple("abcdefgh"[: quality.shape[1]])
    return Estimates(names, quality, np.zeros_like(quality), cost, np.ones_like(cost))


def test_settings_follow_the_curve():
    rng = np.random.default_rng(0)
    cost_L, quality_L = rng.random(30), rng.random(30)
    from_curve = curve(cost_L, quality_L)
    corner_P = np.array([int(np.flatnonzero(cost_L == c)[0]) for c in from_curve.cost_P])
    for budget in np.linspace(cost_L[corner_P[0]], cost_L[corner_P[-1]], 17):
        found = within(corner_P, cost_L, budget)
        assert found.of(cost_L) == pytest.approx(budget)
        assert found.of(cost_L) <= budget
        assert found.of(quality_L) == pytest.approx(float(from_curve.quality_at(budget)))
    for floor in np.linspace(quality_L[corner_P[0]], quality_L[corner_P[-1]], 17):
        found = above(corner_P, quality_L, floor)
        assert found.of(quality_L) >= floor
        assert found.of(cost_L) == pytest.approx(from_curve.cost_at(floor))
        reached = cost_to_reach(cost_L[corner_P][None], quality_L[corner_P][None], np.array([floor]))
        assert reached[0] == pytest.approx(from_curve.cost_at(floor))
    assert within(corner_P, cost_L, cost_L[corner_P[0]] / 2) is None
    assert above(corner_P, quality_L, 2.0) is None
    assert cost_to_reach(cost_L[corner_P][None], quality_L[corner_P][None], np.array([2.0]))[0] == np.inf


@pytest.mark.parametrize("slug", ["lm-static-mix", "lm-knn"])
def test_tune_spends_the_budget_between_two_settings(slug, tmp_path):
    """Two models of costs 1 and 10 (and one of 2): a budget of 5 lies between any two settings of a blind router."""
    validation = MADE.split("validation")
    budget = float(0.8 * validation.cost_NM[:, 0].mean() + 0.2 * validation.cost_NM[:, 2].mean())
    tuned = tune(RECIPES[slug](), MADE, budget=budget)
    assert tuned.validation.cost.value == pytest.approx(budget, rel=1e-9)
    assert isinstance(tuned.routing.rule, Mix)
    saved = OfflinePolicy("mixed", tuned.routing.estimator, tuned.routing.rule)
    saved.save(tmp_path / "mixed")
    loaded = load_policy(tmp_path / "mixed")
    served = Folder.build("mixed", Folder.Options(path="mixed"), KNOWN, tmp_path)
    ours = [saved.decide(prompt) for prompt in MADE.prompts[:200]]
    assert ours == [loaded.decide(prompt) for prompt in MADE.prompts[:200]]
    assert ours == [served.decide(prompt) for prompt in MADE.prompts[:200]]


def test_a_blind_mix_meets_its_share_and_tells_its_chances():
    estimator = Mean().fit(MADE.split("train"))
    policy = OfflinePolicy("half", estimator, Mix(Weights(1e6), Weights(0.0), 0.3))
    decisions = [policy.decide(prompt) for prompt in PROMPTS]
    dear = np.array([decision.model == "dear-all-rounder" for decision in decisions])
    assert dear.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / len(PROMPTS)))
    assert {d.propensity for d in decisions if d.model == "dear-all-rounder"} == {0.3}
    assert {d.propensity for d in decisions if d.model == "cat-person"} == {0.7}
    without = policy.decide(PROMPTS[0], exclude={"dear-all-rounder", "dog-person"})
    assert (without.model, without.propensity) == ("cat-person", pytest.approx(1.0))
    assert "30%" in decisions[0].reason


def test_all_steps_of_a_cascade_see_the_same_coin():
    estimator = Mean().fit(MADE.split("train"))
    order = ("cat-person", "dear-all-rounder")
    policy = OfflinePolicy("mixed", estimator, Mix(Cascade(order, 0.2), Cascade(order, 0.9), 0.5))
    for prompt in PROMPTS[:50]:
        first = policy.decide(prompt)
        assert first.escalate_below == policy.decide(prompt).escalate_below
        assert policy.decide(prompt, exclude={first.model}).escalate_below is None
    assert {policy.decide(prompt).escalate_below for prompt in PROMPTS[:50]} == {0.2, 0.9}


def test_a_mix_asks_for_its_coin():
    with pytest.raises(RosterError, match="coin"):
        Mix(Weights(), Weights(1.0), 0.5).choose(estimates([0.5, 0.6], [1, 2]))
    with pytest.raises(RosterError, match="between 0 and 1"):
        Mix(Weights(), Weights(1.0), 1.5)
    assert Setting(0, 1, 0.25).of(np.array([[0.0], [1.0]])) == 0.25


@pytest.mark.parametrize("dearest", [3.0, 1e3, 1e6, 1e12])
def test_the_price_dial_reaches_the_cheapest_whatever_the_dearest_costs(dearest):
    rng = np.random.default_rng(1)
    made = estimates(rng.random((200, 3)), np.tile([1.0, 1.5, dearest], (200, 1)))
    settings = Weights().sweep(made)
    chosen_LN = np.array([rule.choose(made) for rule in settings])
    assert (chosen_LN[0] == 0).all()
    assert (chosen_LN[-1] == made.quality_NM.argmax(1)).all()
    cost_L = np.take_along_axis(made.cost_NM[None], chosen_LN[:, :, None], 2)[..., 0].mean(1)
    assert (np.diff(cost_L) >= 0).all()
    between = ((chosen_LN == 0).mean(1) > 0.1) & ((chosen_LN == 1).mean(1) > 0.1)
    assert between.any(), "the dial has stops between the two cheap models"


def test_the_dial_of_one_price_has_one_stop():
    made = estimates([[0.2, 0.8]], [[2.0, 2.0]])
    assert len(Weights().sweep(made)) == 1
    assert Routing(Mean(), Weights()).mixes
