"""Finding the best model from few scores: budgets are kept, cells are paid for once, low rank is found again."""

import numpy as np
import pytest

from roster.errors import RosterError
from roster.lm.online.cells import UCBE, LowRank, Uniform, evaluate

RNG = np.random.default_rng(0)
SCORE_MN = np.outer(np.linspace(0.3, 0.95, 8), RNG.uniform(0.5, 1.0, 60))


@pytest.mark.parametrize("plan", [Uniform(), UCBE(), LowRank()], ids=lambda plan: type(plan).__name__)
def test_every_cell_is_paid_for_once(plan):
    paid = []

    def score(m, n):
        paid.append((m, n))
        return SCORE_MN[m, n]

    found = evaluate(plan, score, 8, 60, budget=100, batch=16)
    assert len(paid) == len(set(paid)) == 100 == found.seen_MN.sum()
    assert found.path[0][0] == 8 * plan.first
    assert [spent for spent, _ in found.path][-2:] == [100 - (100 - 8 * plan.first) % 16, 100]
    again = evaluate(plan, lambda m, n: SCORE_MN[m, n], 8, 60, budget=100, batch=16)
    assert (again.seen_MN == found.seen_MN).all()
    everything = evaluate(plan, lambda m, n: SCORE_MN[m, n], 8, 60, budget=480)
    np.testing.assert_allclose(everything.mean_M, SCORE_MN.mean(1))


def test_bandits_look_at_what_may_be_the_best():
    for plan in (UCBE(0.3), LowRank()):
        found = evaluate(plan, lambda m, n: SCORE_MN[m, n], 8, 60, budget=120, batch=8)
        seen_M = found.seen_MN.sum(1)
        assert found.best == 7
        assert seen_M[-2:].mean() > 2 * seen_M[:4].mean()


def test_unseen_cells_are_filled_by_low_rank():
    seen_MN = np.random.default_rng(1).random(SCORE_MN.shape) < 0.4
    guess_EMN = LowRank(rounds=30)._ensemble(np.where(seen_MN, SCORE_MN, np.nan), seen_MN, np.random.default_rng(2))
    error = np.abs(guess_EMN.mean(0) - SCORE_MN)[~seen_MN].mean()
    assert error < 0.4 * np.abs(SCORE_MN[seen_MN].mean() - SCORE_MN)[~seen_MN].mean()


def test_a_budget_that_cannot_be_spent():
    for budget in (8 * Uniform.first - 1, 481):
        with pytest.raises(RosterError, match="cannot be spent"):
            evaluate(Uniform(), lambda m, n: 0.0, 8, 60, budget=budget)
