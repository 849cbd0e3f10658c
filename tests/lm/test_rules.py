"""Decision rules on estimates small enough to decide by hand; any estimator meets any rule."""

import numpy as np
import pytest
from scipy.stats import norm

from lm import tiny
from roster.errors import RosterError
from roster.lm.decide import Budget, Cascade, Deadline, Floor, Replan, Weights
from roster.lm.estimate import KNN, DatasetTable, Estimates, Mean

QUALITY = np.array([[0.3, 0.6, 0.9], [0.8, 0.7, 0.9]])
COST = np.array([[1.0, 2.0, 10.0], [1.0, 2.0, 10.0]])
DELAY = np.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
MADE = Estimates(("small", "middle", "large"), QUALITY, np.full((2, 3), 0.1), COST, DELAY)
NO_COST = Estimates(MADE.models, QUALITY, MADE.std_NM, COST * np.nan, DELAY)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Weights(), [2, 2]),
        (Weights(cost=0.05), [1, 0]),
        (Weights(cost=10.0), [0, 0]),
        (Weights(delay=0.5), [2, 0]),
        (Budget(2.0), [1, 0]),
        (Budget(0.5), [0, 0]),
        (Floor(0.5), [1, 0]),
        (Floor(0.95), [2, 2]),
        (Deadline(2.5), [2, 2]),
        (Deadline(0.1), [0, 0]),
        (Deadline(2.5, cost=0.05), [2, 0]),
        (Cascade(("small", "large")), [0, 0]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_by_hand(rule, expected):
    assert rule.choose(MADE).tolist() == expected
    assert rule.reason(MADE, expected[0])


def test_caution_prefers_what_is_known():
    sure = Estimates(MADE.models, QUALITY, np.array([[0.0, 0.0, 0.9], [0.0, 0.0, 0.0]]), COST, DELAY)
    assert Weights(caution=1.0).choose(sure).tolist() == [1, 2]


def test_excluded_models_are_not_chosen():
    assert Weights().choose(MADE, np.array([True, True, False])).tolist() == [1, 0]
    with pytest.raises(RosterError, match="every model is excluded"):
        Weights().choose(MADE, np.zeros(3, dtype=bool))


def test_what_is_not_known_is_not_guessed():
    assert Weights().choose(NO_COST).tolist() == [2, 2]
    with pytest.raises(RosterError, match="the records show no cost for small"):
        Weights(cost=1.0).choose(NO_COST)


@pytest.mark.parametrize("rule", [Weights(), Budget(1.0), Floor(0.5), Deadline(2.5), Replan(0.01)])
@pytest.mark.parametrize("kind", [KNN, DatasetTable, Mean])
def test_any_estimator_meets_any_rule_over_its_dial(rule, kind):
    made = tiny.records()
    found = kind().fit(made.split("train")).estimate(made.prompts, made.datasets)
    settings = rule.sweep(found)
    assert len(settings) > 1
    spent = [made.cost_NM[np.arange(len(made)), each.choose(found)].mean() for each in settings]
    assert max(spent) > min(spent) or isinstance(rule, Deadline)


def test_a_cascade_on_records():
    sure = np.array([[0.9, 0.0, 0.0], [0.2, 0.0, 0.0]])
    kept, paid = Cascade(("small", "large"), threshold=0.5).play(MADE, sure, COST)
    assert kept.tolist() == [0, 2]
    assert paid.tolist() == [1.0, 11.0]
    with pytest.raises(RosterError, match="did you mean 'small'"):
        Cascade(("smal", "large")).choose(MADE)


def test_replanning_gains_by_the_normal_formula():
    rule = Replan(cost=0.01, spread=0.3)
    sigma = np.hypot(0.1, 0.3)
    z = (0.9 - 0.5) / sigma
    expected = sigma * (z * norm.cdf(z) + norm.pdf(z)) - 0.01 * 10
    assert rule._gain(MADE, np.array([[0.5], [0.5]]))[0, 2] == pytest.approx(expected)


def test_replanning_asks_on_below_its_threshold_only():
    rule, one = Replan(cost=0.02), MADE.rows(np.array([0]))
    below = rule.next_below(one, [], 0)
    assert 0 < below < 1
    others = [1, 2]
    assert rule._gain(one, np.array([[below - 0.01]]))[0, others].max() > 0
    assert rule._gain(one, np.array([[below + 0.01]]))[0, others].max() <= 0
    assert rule.next_below(one, [1, 2], 0) is None
    assert Replan(cost=100.0).next_below(one, [], 0) == 0.0


def test_bad_settings():
    for make, message in (
        (lambda: Weights(cost=-1.0), "at least 0"),
        (lambda: Budget(-1.0), "at least 0"),
        (lambda: Floor(1.5), "between 0 and 1"),
        (lambda: Deadline(float("nan")), "at least 0"),
        (lambda: Cascade(()), "at least one model"),
        (lambda: Cascade(("a",), 2.0), "between 0 and 1"),
        (lambda: Replan(spread=0.0), "above 0"),
    ):
        with pytest.raises(RosterError, match=message):
            make()
