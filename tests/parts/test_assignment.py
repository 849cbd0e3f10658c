"""Balanced assignment against SciPy, and Sinkhorn's plan against its own conditions."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from roster import Context, RosterError
from roster.select import BalancedAssignment, ReLU, Sinkhorn, TopK
from roster.select.assignment import assign


def best_total(scores_TE):
    """SciPy's optimum, with every expert repeated as often as it has places."""
    T, E = scores_TE.shape
    places = math.ceil(T / E)
    tokens, columns = linear_sum_assignment(-scores_TE.repeat_interleave(places, 1).numpy())
    return float(scores_TE[torch.tensor(tokens), torch.tensor(columns) // places].sum())


@pytest.mark.parametrize(
    ("tokens", "experts", "skew", "scale"),
    [
        (24, 4, 0.0, 1.0),
        (60, 6, 2.0, 1.0),
        (50, 8, 1.0, 1e-3),
        (7, 3, 0.5, 100.0),
        (3, 8, 0.0, 1.0),
        (128, 2, 5.0, 1.0),
    ],
)
def test_the_total_is_scipys(tokens, experts, skew, scale):
    for seed in range(3):
        torch.manual_seed(seed)
        scores_TE = (torch.randn(tokens, experts) + skew * torch.randn(experts)) * scale
        expert_T = assign(scores_TE, 1e-5)
        total = float(scores_TE.gather(1, expert_T[:, None]).sum())
        spread = float(scores_TE.max() - scores_TE.min())
        places = math.ceil(tokens / experts)
        assert total == pytest.approx(best_total(scores_TE), abs=1e-5 * spread * tokens + 1e-5 * scale)
        counts_E = torch.bincount(expert_T, minlength=experts)
        assert counts_E.sum() == tokens
        assert counts_E.max() <= places


def test_loads_are_exactly_even_where_they_can_be():
    torch.manual_seed(0)
    scores_TE = torch.randn(96, 8) + 3 * torch.randn(8)
    assert torch.bincount(assign(scores_TE), minlength=8).tolist() == [12] * 8


def test_ties_and_degenerate_scores():
    assert torch.bincount(assign(torch.zeros(12, 4)), minlength=4).tolist() == [3] * 4
    assert assign(torch.randn(5, 1)).tolist() == [0] * 5
    assert assign(torch.empty(0, 3)).tolist() == []
    with pytest.raises(RosterError, match="not finite"):
        assign(torch.tensor([[0.0, torch.nan]]))


def test_training_assigns_and_evaluation_takes_the_best():
    torch.manual_seed(0)
    scores_TE = torch.randn(10, 2) + torch.tensor([3.0, 0.0])
    mask_BS = torch.tensor([[True] * 4 + [False], [True] * 4 + [False]])
    select = BalancedAssignment(1e-5)
    route = select(scores_TE, Context(2, 5, mask_BS=mask_BS))
    assert route.counts_E.tolist() == [4, 4]
    assert not route.chosen()[~mask_BS.flatten()].any()
    chosen_TE = route.chosen()
    torch.testing.assert_close(route.dense()[chosen_TE], scores_TE.sigmoid()[chosen_TE])
    route = select.eval()(scores_TE, Context(2, 5, mask_BS=mask_BS))
    assert route.chosen().long().argmax(1).tolist() == scores_TE.argmax(1).tolist()


def test_sinkhorn_evens_the_plan_and_leaves_weights_alone():
    torch.manual_seed(0)
    scores_TE = torch.randn(64, 4) + torch.tensor([2.0, 0.0, 0.0, -2.0])
    mask_BS = torch.ones(1, 64, dtype=torch.bool)
    mask_BS[:, 60:] = False
    select = Sinkhorn(TopK(1, "all"), iterations=200, temperature=0.5)
    context = Context(1, 64, mask_BS=mask_BS)
    plan_TE = (scores_TE[:60] / 0.5 + select.bias(scores_TE, context) / 0.5).softmax(1)
    torch.testing.assert_close(plan_TE.mean(0), torch.full((4,), 0.25), atol=1e-3, rtol=0)
    route = select(scores_TE, context)
    chosen_TE = route.chosen()
    torch.testing.assert_close(route.dense()[chosen_TE], scores_TE.softmax(1)[chosen_TE])
    greedy_E = torch.bincount(scores_TE[:60].argmax(1), minlength=4)
    assert route.keep(mask_BS[0]).counts_E.max() < greedy_E.max()
    assert torch.equal(select.eval()(scores_TE, context).chosen().long().argmax(1), scores_TE.argmax(1))
    with pytest.raises(RosterError, match="ReLU reads none"):
        Sinkhorn(ReLU())


def test_sinkhorns_bias_is_that_of_iterations_one_by_one():
    """Also where the scores are so far apart that most probabilities are zero."""
    torch.manual_seed(0)
    for std in (0.3, 30.0):
        scores_TE = (torch.randn(50, 6) + torch.randn(6)) * std
        v_E = torch.zeros(6, dtype=torch.float64)
        for _ in range(10):
            load_E = (scores_TE.double() / 0.1 + v_E).softmax(1).mean(0)
            v_E = v_E - (load_E * 6).clamp_min(1e-9).log()
        bias_E = Sinkhorn(TopK(1), iterations=10).bias(scores_TE, Context(1, 50))
        torch.testing.assert_close(bias_E, (v_E * 0.1).float(), atol=1e-3 * std, rtol=1e-3)
