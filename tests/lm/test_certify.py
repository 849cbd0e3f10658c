"""A floor with a confidence: the p-value against its source, coverage by simulation, and what tuning makes of it."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import rel_entr

from lm import tiny
from roster.errors import RosterError
from roster.lm.certify import certified, p_value, prompts_needed
from roster.lm.decide import Weights
from roster.lm.estimate import KNN
from roster.lm.routing import Routing
from roster.lm.tune import tune


@pytest.mark.parametrize(
    ("right", "count", "floor"), [(95, 100, 0.85), (180, 200, 0.85), (999, 1000, 0.9), (90, 100, 0.9)]
)
def test_the_p_value_is_hoeffdings_or_bentkus_whichever_is_smaller(right, count, floor):
    score_N = np.arange(count) < right
    wrong, risk = count - right, 1 - floor
    if right / count <= floor:
        assert p_value(score_N, floor) == 1
        return
    distance = rel_entr(wrong / count, risk) + rel_entr(right / count, floor)
    tail = stats.binomtest(wrong, count, risk, alternative="less").pvalue
    assert p_value(score_N, floor) == pytest.approx(min(np.exp(-count * distance), np.e * tail))


def test_under_the_hypothesis_small_p_values_are_rare():
    rng = np.random.default_rng(0)
    for draw in (lambda: rng.random(150) < 0.8, lambda: rng.beta(4, 1, 150)):  # both have the mean 0.8
        found = np.array([p_value(draw(), 0.8) for _ in range(2000)])
        for level in (0.02, 0.05, 0.2):
            assert (found <= level).mean() <= level


TRUTH_L = np.array([0.60, 0.70, 0.80, 0.84, 0.86, 0.88, 0.90, 0.93])
"""Mean scores of settings from frugal to generous."""


def draws(count, times):
    rng = np.random.default_rng(1)
    for _ in range(times):
        shared_N = rng.random(count)  # settings send most prompts to the same models, so their scores go together
        yield (shared_N < TRUTH_L[:, None]).astype(float)


def test_coverage_is_at_least_what_was_asked_for():
    floor, confidence = 0.85, 0.9
    shown, naive, cheap = [], [], 0
    for score_LN in draws(400, 1000):
        kept = certified(score_LN, floor, confidence)
        shown.append(not len(kept) or TRUTH_L[kept].min() >= floor)  # all that are said to keep it do
        cheap += len(kept) and kept.min() < len(TRUTH_L) - 1
        naive.append(TRUTH_L[np.flatnonzero(score_LN.mean(1) >= floor).min()] >= floor)
    assert np.mean(shown) >= confidence
    assert np.mean(naive) < 0.8  # the setting that happened to reach it on validation often does not
    assert cheap > 500  # and it is worth something: mostly more than the dearest setting is shown


def test_the_order_has_no_gaps():
    generous_first = np.array([[1.0] * 200, [0.0] * 200, [1.0] * 200])
    assert certified(generous_first, 0.5, 0.95).tolist() == [2]


def test_tuning_keeps_what_was_tested():
    records = tiny.records(2000)
    tuned = tune(Routing(KNN(), Weights()), records, floor=0.7, confidence=0.95)
    alone = Routing(KNN(), Weights()).fit(records.split("train"))
    ours, theirs = (each.estimator.estimate(records.prompts[:50]).quality_NM for each in (tuned.routing, alone))
    np.testing.assert_array_equal(ours, theirs)
    assert isinstance(tuned.routing.rule, Weights)  # no mix: a coin was not tested
    assert p_value(records.split("validation").score_NM[:, 0], 0.7) == 1
    plain = tune(Routing(KNN(), Weights()), records, floor=0.7)
    assert plain.validation.cost.value <= tuned.validation.cost.value
    assert tuned.validation.quality.value > 0.7


def test_refusals_say_what_is_missing():
    records = tiny.records(300)
    routing = Routing(KNN(), Weights())
    with pytest.raises(RosterError, match=r"with confidence 0\.99.*about \d+ would be needed"):
        tune(routing, records, floor=0.84, confidence=0.99)
    with pytest.raises(RosterError, match="below the floor"):
        tune(routing, records, floor=0.99, confidence=0.9)
    with pytest.raises(RosterError, match="belongs to a quality floor"):
        tune(routing, records, budget=1.0, confidence=0.9)
    with pytest.raises(RosterError, match="confidence to be shown lies between 0 and 1"):
        tune(routing, records, floor=0.5, confidence=95)


def test_as_many_prompts_as_are_said_to_be_needed_suffice():
    count = prompts_needed(0.85, 0.95, 0.9)
    assert p_value(np.arange(count) < round(0.9 * count), 0.85) <= 0.06
    assert p_value(np.arange(count // 2) < round(0.9 * (count // 2)), 0.85) > 0.05
