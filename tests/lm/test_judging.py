"""What routers are judged on: free calls, costs that nobody logged, and cells that are missing."""

import numpy as np
import pytest

from lm import tiny
from roster.errors import RosterError
from roster.lm.decide import Weights
from roster.lm.estimate import KNN
from roster.lm.evaluate import evaluate
from roster.lm.judging import NO_COSTS, complete
from roster.lm.report import page, tables
from roster.lm.results import LOOKUP, SINGLE
from roster.lm.routing import Routing
from roster.lm.tune import tune

ROUTERS = {"lm-knn": lambda: Routing(KNN(neighbours=20), Weights())}
NONE = np.full((200, 3), np.nan)


def costing(*factors):
    made = tiny.records(200)
    return tiny.records(200, cost_NM=made.cost_NM * np.array(factors))


def measured(made):
    report = evaluate(made, ROUTERS, draws=20)
    assert page(report)
    assert tables(report)
    return report, {row.router: row for row in report.sections[0].rows}


@pytest.mark.parametrize("made", [costing(0, 0, 0), tiny.records(200, cost_NM=NONE)], ids=["free", "unknown"])
def test_where_no_call_costs_anything_quality_alone_is_compared(made):
    report, rows = measured(made)
    assert report.verdict[0].startswith("In distribution: no call costs anything here, so quality alone is compared")
    assert (NO_COSTS in report.notes) == bool(np.isnan(made.cost_NM).all())
    assert rows["lm-knn"].quality.value > rows[SINGLE].quality.value
    assert rows["lm-knn"].router_cost is None


def test_one_free_model(tmp_path):
    _, rows = measured(costing(0, 1, 1))
    assert rows["lm-knn"].curve[0][0] == 0
    tuned = tune(ROUTERS["lm-knn"](), costing(0, 1, 1), budget=0.0)
    assert tuned.validation.cost.value == 0
    # The best single model costs nothing: whatever costs more has no finite ratio to it.
    _, rows = measured(costing(1, 1, 0))
    assert rows[SINGLE].cost.value == 1
    assert np.isinf(rows[LOOKUP].cost.high) or rows[LOOKUP].cost.value == 1


def test_tuning_needs_costs():
    with pytest.raises(RosterError, match="have no costs, and a floor weighs them: give prices"):
        tune(ROUTERS["lm-knn"](), tiny.records(200, cost_NM=NONE), floor=0.5)


def test_a_model_without_any_cost_is_named():
    made = costing(1, np.nan, 1)
    with pytest.raises(RosterError, match=r"missing for dog-person \(40 of 40\).*--without.*--prices"):
        evaluate(made, ROUTERS, draws=20)
    report, rows = measured(made.without(["dog-person"]))
    assert "lm-knn" in rows
    assert not report.notes


def test_missing_cells_are_counted_in_every_part():
    made = tiny.records(200)
    score_NM = made.score_NM.copy()
    score_NM[::7, 0] = np.nan
    made = tiny.records(200, score_NM=score_NM)
    report, _ = measured(made)
    for part in ("validation", "test"):
        here = made.split(part)
        gone = len(here) - len(complete(here, part))
        assert f"{gone} of 40 {part} prompts were left out: a score or cost is missing" in report.notes
    tuned = tune(ROUTERS["lm-knn"](), made, floor=0.5)
    assert [note.split(" of ")[0] for note in tuned.notes] == [note.split(" of ")[0] for note in report.notes]
