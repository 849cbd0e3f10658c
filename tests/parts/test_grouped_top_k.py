"""Grouped top-k by hand. (DeepSeek-V2's and V3's own routers are compared in tests/moe/test_parity.py.)"""

import pytest
import torch

from roster.context import Context
from roster.errors import RosterError
from roster.select import GroupedTopK

CONTEXT = Context(1, 1)


def logit(*affinities):
    return torch.tensor([affinities]).logit()


def test_the_best_groups_first():
    # Sums of the best two of each pair: 1.0, 0.9, 1.1; the best expert of all is in the group that is left out.
    scores = logit(0.5, 0.5, 0.8, 0.1, 0.6, 0.5)
    route = GroupedTopK(2, groups=3, keep=1)(scores, CONTEXT)
    torch.testing.assert_close(route.dense(), torch.tensor([[0.0, 0, 0, 0, 0.6 / 1.1, 0.5 / 1.1]]))
    route = GroupedTopK(2, groups=3, keep=1, group_score="best", normalise=False, scale=2.5)(scores, CONTEXT)
    torch.testing.assert_close(route.dense(), torch.tensor([[0.0, 0, 2.0, 0.25, 0, 0]]))


def test_a_bias_chooses_and_does_not_weigh():
    scores = logit(0.9, 0.2, 0.3, 0.1)
    route = GroupedTopK(2)(scores, CONTEXT, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(route.dense(), torch.tensor([[0.9 / 1.1, 0.2 / 1.1, 0.0, 0.0]]))


def test_softmax_affinities():
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    route = GroupedTopK(1, groups=2, keep=1, affinity="softmax", group_score="best", normalise=False)(scores, CONTEXT)
    torch.testing.assert_close(route.dense(), torch.tensor([[0.0, 0, 0, 0.4]]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k >= 1"),
        ({"k": 1, "groups": 2, "keep": 3}, "keep <= groups"),
        ({"k": 1, "affinity": "relu"}, "affinity='relu'"),
    ],
)
def test_values_that_do_not_fit(given, message):
    with pytest.raises(RosterError, match=message):
        GroupedTopK(**given)


@pytest.mark.parametrize("given", [{"k": 3, "groups": 3, "keep": 1}, {"k": 1, "groups": 4, "keep": 1}])
def test_experts_that_do_not_fit(given):
    with pytest.raises(RosterError, match=r"of 6 experts in"):
        GroupedTopK(**given)(torch.zeros(1, 6), CONTEXT)
