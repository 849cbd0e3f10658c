"""Expertise trees: errors leave one out, noise grows no branches, regions do, and what a leaf saw is never lost."""

import numpy as np
import pytest

from roster.errors import RosterError
from roster.lm.online import replay
from roster.lm.online.tree import ExpertiseTree
from roster.recipes import find


def played(chance, steps=1500, seed=0, **options):
    """A tree after some steps of two features; `chance(x_ND) -> chance_NM`."""
    rng = np.random.default_rng(seed)
    x_ND = rng.random((steps, 2))
    chance_NM = chance(x_ND)
    tree = ExpertiseTree(chance_NM.shape[1], seed=seed, **options)
    replayed = replay(tree, x_ND, (rng.random(chance_NM.shape) < chance_NM).astype(float))
    return tree, replayed, chance_NM


def split_world(x_ND):
    left_N1 = x_ND[:, :1] <= 0.3
    return np.where(left_N1, [[0.9, 0.2]], [[0.2, 0.9]])


def test_regions_are_found_and_used():
    tree, replayed, chance_NM = played(split_world)
    feature, threshold = tree.splits()[0]
    assert feature == 0
    assert threshold == pytest.approx(0.3, abs=0.06)
    late = slice(-300, None)
    assert (replayed.choice_N == chance_NM.argmax(1))[late].mean() > 0.9


def test_luck_grows_no_branches():
    grown = [len(played(lambda x_ND: np.full((len(x_ND), 3), 0.6), seed=seed)[0].splits()) for seed in range(10)]
    assert sum(grown) <= 1


def test_no_depth_is_one_leaf():
    assert played(split_world, depth=0)[0].splits() == []
    assert len(played(split_world, depth=1)[0].splits()) == 1


def test_a_split_keeps_what_was_seen():
    tree, replayed, _ = played(split_world)
    leaves, todo = [], [tree.root]
    while todo:
        node = todo.pop()
        todo += [node.left, node.right] if hasattr(node, "threshold") else []
        leaves += [] if hasattr(node, "threshold") else [node]
    assert len(leaves) > 1
    assert sum(len(leaf.seen) for leaf in leaves) == len(replayed.gain_N)
    np.testing.assert_allclose(sum(leaf.total_M for leaf in leaves).sum(), replayed.gain_N.sum())
    np.testing.assert_allclose(
        sum(leaf.count_M for leaf in leaves), np.bincount(replayed.choice_N, minlength=2).astype(float)
    )


def test_errors_leave_one_out():
    rng = np.random.default_rng(0)
    arm_N, gain_N, side_N = rng.integers(3, size=12), rng.random(12), rng.random(12) < 0.6
    found_N = ExpertiseTree(3, prior=(0.4, 2.0))._errors(side_N[None], arm_N, gain_N)[0]
    for n in np.flatnonzero(side_N):
        others = [gain_N[k] for k in range(12) if k != n and side_N[k] and arm_N[k] == arm_N[n]]
        assert found_N[n] == pytest.approx(gain_N[n] - (sum(others) + 0.8) / (len(others) + 2))


def test_what_cannot_grow():
    with pytest.raises(RosterError, match="above zero"):
        ExpertiseTree(2, certainty=0.0)


def test_the_recipe_learns():
    tree = find("expertise-trees").compose(depth=2)(2)
    tree.learn(np.zeros(2), 1, 1.0)
    assert tree.root.count_M.tolist() == [0.0, 1.0]
