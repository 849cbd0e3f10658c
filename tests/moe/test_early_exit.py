"""Early exit: probabilities, targets of the gates, and inference that stops where it says."""

import pytest
import torch
from torch import nn

from roster.errors import RosterError
from roster.moe.early_exit import Exits
from roster.recipes import find


def stack(layers=3, trade=0.1, costs=None):
    made = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(layers)]
    return find("jei-dnn")({"trade": trade})(made, [nn.Linear(6, 4) for _ in made], costs)


def test_exit_probabilities_by_hand():
    gate_LN = torch.tensor([[0.0], [torch.logit(torch.tensor(0.2))], [torch.inf]])
    exits = Exits(torch.zeros(3, 1, 4), gate_LN)
    torch.testing.assert_close(exits.exit_LN[:, 0], torch.tensor([0.5, 0.5 * 0.2, 0.5 * 0.8]))


def test_deciding_equals_running_everything_and_picking():
    model, x_NF = stack(), torch.randn(200, 6)
    for index, gate in enumerate(model.gates):
        nn.init.constant_(gate.weight, 1.0)
        gate.bias.data -= model(x_NF).gate_LN[index].median()  # half of the inputs would leave here
    logits_NC, exit_N = model.decide(x_NF)
    exits = model(x_NF)
    wanted_N = (exits.gate_LN >= 0).int().argmax(0)
    assert exit_N.unique().numel() > 1
    assert torch.equal(exit_N, wanted_N)
    torch.testing.assert_close(logits_NC, exits.logits_LNC[wanted_N, torch.arange(200)])


def test_a_price_nobody_would_pay_makes_everybody_leave_first():
    model, x_NF, label_N = stack(trade=50.0), torch.randn(64, 6), torch.randint(0, 4, (64,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(model(x_NF), label_N).backward()
        optimizer.step()
    assert not model.decide(x_NF)[1].any()


def test_gates_do_not_train_the_heads():
    model, x_NF = stack(), torch.randn(8, 6)
    model(x_NF).gate_LN[0].sum().backward()
    assert model.gates[0].weight.grad.any()
    assert model.heads[0].weight.grad is None


@pytest.mark.parametrize("costs", [[1.0, 0.5, 2.0], [1.0, 2.0]])
def test_bad_costs_are_refused(costs):
    with pytest.raises(RosterError, match="cost"):
        stack(costs=costs)


def test_nothing_is_computed_once_everybody_has_left():
    model, seen = stack(), []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    nn.init.zeros_(model.gates[0].weight)
    nn.init.constant_(model.gates[0].bias, 9.0)  # open to everybody
    _, exit_N = model.decide(torch.randn(5, 6))
    assert seen == [5]
    assert not exit_N.any()


def test_the_last_exit_takes_whoever_is_left():
    model = stack()
    for gate in model.gates:
        nn.init.constant_(gate.bias, -99.0)
    assert model.decide(torch.randn(5, 6))[1].tolist() == [2] * 5
