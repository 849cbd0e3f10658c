"""What parts do when nobody says otherwise: as their docstrings and sources have it."""

import pytest
import torch

from roster import RosterError, Router, select
from roster.balance import LossFreeBias, NullLoadBalancing, ZLoss
from roster.context import Context
from roster.route import Route
from roster.score import Linear, Random
from roster.select import Native, Threshold, TopK

HERE = Context(1, 3)


def test_z_loss_has_the_sources_coefficient():
    route = Route.slots(torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1), 2)
    route.scores_TE = torch.randn(3, 2)
    expected = 1e-3 * route.scores_TE.logsumexp(1).square().mean()
    torch.testing.assert_close(ZLoss()(route, HERE), expected)


def test_null_experts_balance_at_the_usual_weight():
    route = Route.slots(torch.tensor([[0], [2], [1]]), torch.ones(3, 1), 3)
    route.scores_TE = torch.randn(3, 3)
    torch.testing.assert_close(
        NullLoadBalancing(1)(route, HERE), NullLoadBalancing(1, coefficient=1.0)(route, HERE) / 100
    )


def test_random_scores_have_seed_0():
    assert torch.equal(Random(5).key_E, Random(5, seed=0).key_E)
    assert not torch.equal(Random(5).key_E, Random(5, seed=1).key_E)


def test_a_gate_of_exactly_one_half_is_open():
    route = Threshold().eval()(torch.tensor([[0.0, -1e-3, 1e-3]]), Context(1, 1))
    assert route.chosen().tolist() == [[True, False, True]]


NO_BIAS = [name for name in select.__all__ if vars(getattr(select, name)).get("reads_bias") is False]


@pytest.mark.parametrize("name", NO_BIAS)
def test_a_selection_that_reads_no_bias_refuses_the_part_that_makes_one(name):
    made = object.__new__(getattr(select, name))
    torch.nn.Module.__init__(made)
    with pytest.raises(RosterError, match=f"{name} reads none"):
        Router(Linear(2, 3), made, [LossFreeBias(3)])


def test_native_experts_are_no_matter_of_a_bias():
    assert not Native(TopK(1), [0, 1], 2).reads_bias, "they serve their task whoever has how much to do"
