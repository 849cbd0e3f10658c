"""The loss that holds weights near a number, by hand; both experts have a mean of 0.4 over the real tokens."""

import pytest
import torch

from roster import Context, Route
from roster.balance import MeanWeight

PADDED = Context(1, 3, mask_BS=torch.tensor([[True, True, False]]))
ROUTE = Route.from_gates(torch.tensor([[0.2, 0.5], [0.6, 0.3], [9.0, 9.0]])).keep(PADDED.mask_T)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (MeanWeight(0.4), 0.0),
        (MeanWeight(0.1), 0.3**2),
        (MeanWeight(0.1, coefficient=5.0), 5 * 0.3**2),
        (MeanWeight(0.1, own=1), 0.3**2 + 0.6**2),
        (MeanWeight(0.1, own=1, own_target=0.6), 0.3**2 + 0.2**2),
    ],
)
def test_weights_are_held_near_their_targets(loss, expected):
    assert float(loss(ROUTE, PADDED)) == pytest.approx(expected, abs=1e-6)
