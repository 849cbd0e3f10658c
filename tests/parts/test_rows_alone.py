"""Selections that call themselves rowwise decide every row of scores by itself: layers that read one input share such a
decision's arithmetic (`roster.adapters.siblings`)."""

import pytest
import torch

from roster import Context
from roster.select import (
    BestGroup,
    Evenly,
    ExpertChoice,
    Forced,
    GroupedTopK,
    HardTop1,
    Rank,
    TopK,
)

ROWWISE = [BestGroup(3, 2), Evenly(2), Forced(1), GroupedTopK(2, 3, 1), HardTop1(), Rank(1), TopK(2)]
TOGETHER = [ExpertChoice(2.0)]


def apart(select):
    """Whether rows, decided one by one, get what they get together."""
    torch.manual_seed(0)
    scores_TE = torch.randn(7, 6)
    together_TE = select(scores_TE, Context(1, 7)).dense()
    alone_TE = torch.cat([select(row_TE, Context(1, 1)).dense() for row_TE in scores_TE.split(1)])
    return torch.equal(together_TE, alone_TE)


@pytest.mark.parametrize("select", ROWWISE, ids=lambda part: type(part).__name__)
def test_a_rowwise_selection_says_so_and_is(select):
    select.eval()
    assert select.rowwise
    assert apart(select)


@pytest.mark.parametrize("select", TOGETHER, ids=lambda part: type(part).__name__)
def test_a_selection_over_tokens_does_not_say_so(select):
    select.eval()
    assert not getattr(select, "rowwise", False)
    assert not apart(select)
