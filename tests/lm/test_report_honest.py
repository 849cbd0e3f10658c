"""The report does not flatter: costs that are not reached, against plain NumPy."""

import json

import numpy as np
import pytest

from lm import tiny
from roster.lm.curve import resamples
from roster.lm.decide import Weights
from roster.lm.estimate import KNN
from roster.lm.evaluate import evaluate, relative
from roster.lm.records import Records
from roster.lm.report import figure, page, tables
from roster.lm.results import LOOKUP, RANDOM, SINGLE, Figure
from roster.lm.routing import Routing

MADE = tiny.records(400)
DRAWS = 60


def knn():
    return Routing(KNN(neighbours=20), Weights())


def rows_of(records):
    report = evaluate(records, {"lm-knn": knn}, draws=DRAWS)
    return report, {row.router: row for row in report.sections[0].rows}


def test_cost_at_equal_quality_counts_every_resample():
    """Random reaches the quality of the best model in training in some draws of the test only."""
    rng = np.random.default_rng(0)
    good_N = rng.random(400) < 0.6
    score_NM = np.stack([good_N, rng.permutation(good_N), good_N], axis=1).astype(float)
    score_NM[np.array(MADE.splits) != "test", 2] = 1.0  # the best single model by far, as training saw it
    report, rows = rows_of(Records(**{**vars(MADE), "score_NM": score_NM}))
    at = np.array(MADE.splits) == "test"
    score, cost = score_NM[at], MADE.cost_NM[at]
    weight_BN = resamples(len(score), DRAWS, 0)
    single_B = weight_BN @ score[:, 2]
    # Plain NumPy: the random model is one point; it reaches the single model's quality, or it does not.
    reach_B = np.where(weight_BN @ score.mean(1) >= single_B - 1e-12, weight_BN @ cost.mean(1), np.inf)
    ordered = np.sort(reach_B / (weight_BN @ cost[:, 2]))
    assert 0 < np.isinf(ordered).mean() < 1
    assert (rows[RANDOM].cost.low, rows[RANDOM].cost.high) == pytest.approx((ordered[1], ordered[-2]))
    assert rows[RANDOM].cost.high == np.inf
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert json.loads(text)["sections"][0]["rows"][1]["cost"]["high"] == "inf"
    assert "∞]" in page(report)
    assert tables(report)


def test_costs_beside_a_free_single_model():
    found = relative(np.array([0.0, 0.2, np.inf, 3.0]), np.array([0.0, 0.0, 0.0, 2.0]))
    assert found.tolist() == [1.0, np.inf, np.inf, 1.5]
    free = MADE.cost_NM.copy()
    free[:, 2] = 0.0
    _, rows = rows_of(Records(**{**vars(MADE), "cost_NM": free}))
    assert rows[SINGLE].cost.value == 1.0
    assert rows[SINGLE].cost.high == 1.0
    assert rows[LOOKUP].cost.value >= 1.0


def test_figures_are_written_with_their_infinite_ends():
    assert figure(Figure(0.5, 0.25, np.inf), "", 2) == "0.50 [0.25, ∞]"
    assert figure(Figure(np.inf, 1.0, np.inf), "", 1) == "∞ [1.0, ∞]"
    assert figure(Figure(np.nan, np.nan, np.nan)) == "–"


def test_random_is_one_uniform_model_and_the_hull_has_its_own_name():
    _, rows = rows_of(MADE)
    at = np.array(MADE.splits) == "test"
    score, cost = MADE.score_NM[at], MADE.cost_NM[at]
    assert rows["lm-random"].quality.value == pytest.approx(score.mean())
    assert rows["lm-random"].curve == [pytest.approx((cost.mean(), score.mean()))]
    hull = rows["lm-random-hull"]
    assert hull.kind == "yardstick"
    assert hull.curve[0][0] == pytest.approx(cost.mean(0).min())
    assert hull.quality.value >= rows["lm-random"].quality.value
