"""How large weights are drawn: by the standard deviation that a part states, or by the width that feeds them."""

import pytest
import torch
from torch import nn

from roster.score import (
    ByCluster,
    Distilled,
    Gate,
    Hierarchical,
    Hyperspherical,
    Linear,
    Location,
    OfOutputs,
    PerRank,
    Prompted,
    Recurrent,
    Slots,
    TaskGate,
)

D, E = 64, 48

DRAWN = [
    (lambda: ByCluster(8, D, E), "weight_ERV", D**-0.5),
    (lambda: ByCluster(8, D, E, std=3.0), "weight_ERV", 3 * D**-0.5),
    (lambda: Gate(D, E, "gate"), "weight_ED", 0.02),
    (lambda: Gate(D, E, "gate", std=0.5), "weight_ED", 0.5),
    (lambda: Distilled(Linear(D, E), 400, E, hidden=16), "table_VP", 16**-0.5),
    (lambda: Hierarchical(D, E, 24), "group_GD", 0.02),
    (lambda: Hierarchical(D, E, 24), "weight_ED", 0.02),
    (lambda: Hierarchical(D, E, 24, std=0.5), "weight_ED", 0.5),
    (lambda: Hyperspherical(D, E, 32), "reduce_PD", D**-0.5),
    (lambda: Linear(D, E), "weight_ED", 0.02),
    (lambda: Linear(D, E, std=0.5), "weight_ED", 0.5),
    (lambda: Location(E, 64), "table_PE", 0.02),
    (lambda: OfOutputs(D, E), "weight_ED", 0.02),
    (lambda: PerRank(D, [4] * E), "weight_ERD", 0.02),
    (lambda: Prompted(Linear(D, E), 32, D), "prompt_ND", 0.02),
    (lambda: Recurrent(D, E, nn.GRUCell(24, 24), 24, 0), "reduce_HD", D**-0.5),
    (lambda: Recurrent(D, E, nn.GRUCell(24, 24), 24, 0), "weight_EH", 24**-0.5),
    (lambda: Slots(D, E, 2), "slots_EPD", D**-0.5),
    (lambda: TaskGate(3, E, D), "weight_NED", 0.02),
]


@pytest.mark.parametrize(("make", "name", "std"), DRAWN)
def test_weights_are_drawn_as_large_as_stated(make, name, std):
    torch.manual_seed(0)
    weight = make().get_parameter(name)
    assert float(weight.detach().std()) == pytest.approx(std, rel=0.1)  # of a thousand draws and more: within 4 sigma
    assert float(weight.detach().mean()) == pytest.approx(0.0, abs=0.15 * std)
