"""Oracle routes against brute force, and a look into experts against planted ones."""

import itertools

import pytest
import torch
from torch import nn

import tiny
from evidence.checks.blocks import Net
from roster.analyze.experts import look_into, weight_similarity
from roster.analyze.oracle import difficulty, enumerate_routes, frontier, oracle_loss
from roster.errors import RosterError
from roster.experts import SwiGLU
from roster.moe.replacing import replace


def test_frontier_by_hand():
    loss_PN = torch.tensor([[4.0, 1.0], [2.0, 0.9], [1.0, 0.0]])
    cost_P = torch.tensor([0.0, 1.0, 2.0])
    costs, losses = frontier(loss_PN, cost_P)
    # First item: 2 of loss per cost, then 1; second: 1 over two units of cost at once 0.5 a unit.
    assert costs.tolist() == [0.0, 0.5, 1.0, 2.0]
    assert losses.tolist() == [2.5, 1.5, 1.0, 0.5]
    assert oracle_loss(loss_PN, cost_P, 0.25) == pytest.approx(2.0)
    assert oracle_loss(loss_PN, cost_P, -1.0) == float("inf")
    torch.testing.assert_close(difficulty(loss_PN, cost_P), torch.tensor([3.0, 1.0]))


def test_no_assignment_is_below_the_frontier():
    loss_PN, cost_P = torch.rand(4, 5), torch.rand(4)
    for chosen in itertools.product(range(4), repeat=5):
        cost = float(cost_P[list(chosen)].mean())
        loss = float(loss_PN[list(chosen), range(5)].mean())
        assert oracle_loss(loss_PN, cost_P, cost) <= loss + 1e-6


def test_enumeration_is_every_pattern_of_the_same_weights():
    net = Net("duo-llm", None, width=8, hidden=16, out=3, depth=2).eval()
    x_ND = torch.randn(5, 8)
    patterns_PL, loss_PN = enumerate_routes(net, lambda each: each(x_ND).square().sum(1), 3)
    assert len(patterns_PL) == 9
    skipping = (patterns_PL == 0).all(1).nonzero()[0, 0]
    torch.testing.assert_close(loss_PN[skipping], net.out(x_ND).square().sum(1))
    with pytest.raises(RosterError, match="patterns"):
        enumerate_routes(net, lambda each: None, 1000)


def test_equal_experts_are_alike_and_scaled_ones_loud():
    torch.manual_seed(0)
    model = replace(tiny.base(), "gshard-top2", options={"num_experts": 4}).eval()
    for module in model.modules():
        if isinstance(module, SwiGLU) and module.num_experts == 4:
            for weight in module.parameters():
                weight.data.copy_(weight.data[:1].expand_as(weight))
            module.down_EFD.data *= torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]
    for layer in look_into(model, input_ids=torch.stack(tiny.tokens(6, 6)), use_cache=False):
        assert layer.answer_similarity == pytest.approx(1.0, abs=1e-4)
        assert all(value == pytest.approx(1.0, abs=1e-4) for value in layer.weight_similarity.values())
        assert layer.chance == 0.25
        assert 0 <= layer.loudest_first <= 1
    with pytest.raises(RosterError, match="no mixture"):
        look_into(nn.Linear(2, 2), input=torch.zeros(1, 2))


def test_similarity_of_opposite_experts():
    experts = SwiGLU(2, 4, 3)
    experts.up_EDF.data[1] = -experts.up_EDF.data[0]
    assert float(weight_similarity(experts)["up_EDF"][0, 1]) == pytest.approx(-1.0, abs=1e-5)
