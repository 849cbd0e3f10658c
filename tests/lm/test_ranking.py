"""Active ranking: orders are found and paid for, sparse gaps by halving, ties given up, bounds hold."""

import numpy as np
import pytest

from roster.errors import RosterError
from roster.lm.online.ranking import Ranking, best, rank
from roster.recipes import find


def evaluations(level_MN, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return lambda m, task_Q: level_MN[m, task_Q] + noise * rng.standard_normal(len(task_Q))


@pytest.mark.parametrize("tasks", [1, 2, 7, 64])
@pytest.mark.parametrize("halving", [True, False])
def test_an_order_is_found(tasks, halving):
    place_M = np.random.default_rng(tasks).permutation(9)
    level_MN = -place_M[:, None] * np.ones(tasks)
    ranking = Ranking(evaluations(level_MN), tasks, halving=halving)
    assert rank(ranking, 9, 0.1) == tuple(np.argsort(place_M).tolist())
    assert best(ranking, 9, 0.1) == place_M.argmin()
    assert not ranking.ties


def test_every_evaluation_is_counted():
    paid = []

    def evaluate(m, task_Q):
        paid.append(len(task_Q))
        return np.full(len(task_Q), -float(m))

    ranking = Ranking(evaluate, 16)
    rank(ranking, 4, 0.1)
    assert ranking.evaluations == sum(paid)


def test_one_telling_task_among_many_is_found_by_halving():
    level_MN = np.zeros((2, 256))
    level_MN[1, 77] = 1.0
    spent = []
    for halving in (True, False):
        ranking = Ranking(evaluations(level_MN, 0.2), 256, 0.2, halving=halving)
        assert not ranking.better(0, 1, 0.05)
        spent.append(ranking.evaluations)
    assert spent[0] < spent[1] / 5


def test_equal_experts_are_rarely_told_apart():
    # What looks like a difference is one with probability delta at most, whatever was looked at before.
    wrong = 0
    for seed in range(100):
        ranking = Ranking(evaluations(np.zeros((2, 32)), 0.5, seed), 32, 0.5, budget=4000, seed=seed)
        ranking.better(0, 1, 0.2)
        wrong += not ranking.ties
    assert wrong <= 20


def test_a_tie_costs_no_more_than_its_budget_allows():
    ranking = Ranking(evaluations(np.zeros((2, 8)), 0.5), 8, budget=1000)
    assert ranking.better(0, 1, 0.1)
    assert ranking.ties == [(0, 1)]
    assert 1000 <= ranking.evaluations < 3000


def test_what_cannot_be_ranked():
    with pytest.raises(RosterError, match="tasks and a noise"):
        Ranking(evaluations(np.zeros((2, 8))), 8, noise=0.0)
    with pytest.raises(RosterError, match="delta between 0 and 1"):
        rank(Ranking(evaluations(np.zeros((2, 8))), 8), 2, 1.0)


def test_the_recipe_ranks():
    run = find("active-ranking-experts").compose(delta=0.2)
    order, ranking = run(evaluations(np.array([[0.0] * 5, [1.0] * 5, [0.5] * 5])), 3, 5, seed=3)
    assert order == (1, 2, 0)
    assert ranking.seed == 3
