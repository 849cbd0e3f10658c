"""Grounds: what their ablations take away, and what they leave."""

import numpy as np
import torch

from evidence.checks.light import Kin, _c_poly
from evidence.checks.offloading import _by_gate, _by_popularity, _visited
from evidence.grounds.routes import blind, mixed, unpaired
from offload.holding import planted
from roster.context import Context
from roster.offload.traces import NOBODY


def test_ablated_routes_keep_how_often_experts_are_used():
    routes = planted(sequences=6)
    for other in (mixed(routes, 0), unpaired(routes, 0)):
        for layer in range(4):
            counts = [np.bincount(each.chosen_NLK[:, layer].ravel(), minlength=8) for each in (routes, other)]
            assert np.array_equal(*counts)
        assert not np.array_equal(other.chosen_NLK, routes.chosen_NLK)
    assert (blind(routes).ahead_NLA == NOBODY).all()


def test_mixed_routes_forget_which_sequence_an_expert_belongs_to():
    """Planted: two groups of sequences, each with experts of its own."""
    routes = planted(sequences=8, apart=True)
    spread = [np.std(np.stack(list(each.matrices())), axis=0).mean() for each in (routes, mixed(routes, 0))]
    assert spread[1] < 0.5 * spread[0]


def test_unpaired_routes_forget_what_follows_what():
    routes = planted(sequences=8, apart=True)

    def tells(found):
        pairs = np.zeros((8, 8))
        np.add.at(pairs, (found.chosen_NLK[:, 0, 0], found.chosen_NLK[:, 1, 0]), 1)
        expected = pairs.sum(1, keepdims=True) * pairs.sum(0, keepdims=True) / pairs.sum()
        return np.abs(pairs - expected).sum() / pairs.sum()

    assert tells(unpaired(routes, 0)) < 0.5 * tells(routes)


def test_a_gate_that_is_mostly_right_names_more_than_popularity():
    learned, judged = planted(sequences=12).split(seed=0)
    right = [
        (judged.chosen_NLK[:, 1:, :, None] == guess(learned, judged, 0)[:, 1:, None, :]).any(-1).mean()
        for guess in (_by_gate, _by_popularity)
    ]
    assert right[0] > right[1] + 0.1
    assert _visited(judged).shape == (judged.sequences, 4 * 8)


def test_a_tasks_own_skill_serves_nobody_else():
    torch.manual_seed(0)
    layer = _c_poly(shared=2, private=1, rank=1).eval()
    weight_NE = layer.router(torch.zeros(6, 16), Context(6, 1, task_ids_B=torch.arange(6))).dense()
    on = weight_NE[:, 2:] > 1e-6
    assert torch.equal(on, torch.eye(6, dtype=torch.bool))
    assert (weight_NE[:, :2] > 0.1).all()


def test_kin_share_updates_unless_they_have_their_own():
    torch.manual_seed(0)
    assert torch.linalg.matrix_rank(Kin(0.0).update_NOI, atol=1e-4).max() <= 4
    assert torch.linalg.matrix_rank(Kin(1.0).update_NOI, atol=1e-4).min() == 5
