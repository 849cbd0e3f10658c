"""Balance losses against cases worked out by hand."""

import math

import pytest
import torch

from roster import RosterError, Route
from roster.balance import ClusterVariance, LoadBalancing, Locality, LossFreeBias, ParameterPenalty
from roster.balance.mean import over_tokens
from roster.context import Context
from roster.select import GatedTopK, TopK

# Probabilities 1/2, 1/4, 1/8, 1/8 and their mirror image.
PROB_TE = torch.tensor([[4.0, 2.0, 1.0, 1.0], [1.0, 1.0, 2.0, 4.0]]) / 8


def routed(prob_TE, k=1):
    route = TopK(k)(prob_TE.log(), Context(1, len(prob_TE)))
    route.scores_TE = prob_TE.log()
    return route


def test_mean_leaves_padding_out():
    value_T, mask_BS = torch.tensor([1.0, 3.0, 99.0]), torch.tensor([[True, True, False]])
    assert float(over_tokens(value_T, Context(1, 3, mask_BS=mask_BS))) == 2.0
    assert over_tokens(value_T[:, None], Context(1, 3, mask_BS=mask_BS)).tolist() == [2.0]
    assert float(over_tokens(value_T, Context(1, 3, mask_BS=torch.zeros(1, 3, dtype=torch.bool)))) == 0.0


def test_cluster_variance_by_hand():
    """Means of the clusters 3/8 and 1/8, of all 1/4: within ((1/8)^2 * 2 + 0) / 4, between (1/8)^2."""
    loss = ClusterVariance([0, 0, 1, 1], coefficient=3.0)
    within_T, between_T = loss.parts(PROB_TE)
    torch.testing.assert_close(within_T, torch.full((2,), 1 / 128))
    torch.testing.assert_close(between_T, torch.full((2,), 1 / 64))
    assert float(loss(routed(PROB_TE), Context(1, 2))) == pytest.approx(3.0 / 3, rel=1e-5)
    alike = torch.tensor([[3.0, 3.0, 1.0, 1.0]]) / 8
    assert float(loss(routed(alike), Context(1, 1))) == pytest.approx(0.0, abs=1e-5)
    masked = Context(1, 2, mask_BS=torch.tensor([[True, False]]))
    mixed = torch.cat([alike, PROB_TE[:1]])
    assert float(loss(routed(mixed), masked)) == pytest.approx(0.0, abs=1e-5)


def test_cluster_variance_adds_up_to_the_variance():
    prob_TE = torch.randn(5, 6).softmax(1)
    within_T, between_T = ClusterVariance([0, 1, 2, 0, 1, 2]).parts(prob_TE)
    torch.testing.assert_close(within_T + between_T, prob_TE.var(1, correction=0))


def test_locality_by_hand():
    """Two rows on two nodes: -log(1/2 + 1/4) for the first, -log(2/8 + 4/8) for the second; the other way, -log 1/4."""
    loss = Locality([0, 0, 1, 1], coefficient=2.0)
    context = Context(2, 1)
    assert loss.local_TE(context).tolist() == [[True, True, False, False], [False, False, True, True]]
    assert float(loss(routed(PROB_TE), context)) == pytest.approx(2 * math.log(4 / 3), rel=1e-5)
    swapped = float(loss(routed(PROB_TE.flip(0)), context))
    assert swapped == pytest.approx(2 * math.log(4.0), rel=1e-5)
    masked = Context(2, 1, mask_BS=torch.tensor([[True], [False]]))
    assert float(loss(routed(PROB_TE), masked)) == pytest.approx(2 * math.log(4 / 3), rel=1e-5)
    with pytest.raises(RosterError, match="numbered from 0"):
        Locality([0, 2])


def test_locality_is_the_divergence_from_the_nearest_local_distribution():
    prob_TE = torch.randn(4, 4).softmax(1)
    local_TE = torch.tensor([[1.0, 1.0, 0.0, 0.0]]) * prob_TE
    local_TE = local_TE / local_TE.sum(1, keepdim=True)
    divergence_T = torch.special.xlogy(local_TE, local_TE / prob_TE).sum(1)
    loss = Locality([0, 0, 1, 1], coefficient=1.0)(routed(prob_TE), Context(1, 4))
    torch.testing.assert_close(loss, divergence_T.mean())


def test_parameter_penalty_by_hand():
    """Experts 0 and 3 serve half the tokens each, P = (5/16, 3/16, 3/16, 5/16), sizes 1/4, 1, 1, 7/4 of the mean."""
    loss = ParameterPenalty([1, 4, 4, 7], coefficient=0.5)
    expected = 0.5 * 4 * (0.25 * 0.5 * 5 / 16 + 1.75 * 0.5 * 5 / 16)
    assert float(loss(routed(PROB_TE), Context(1, 2))) == pytest.approx(expected, rel=1e-5)
    small_first = torch.tensor([[4.0, 2.0, 1.0, 1.0]]) / 8
    cheap, dear = (float(loss(routed(each), Context(1, 1))) for each in (small_first, small_first.flip(1)))
    assert cheap < dear
    with pytest.raises(RosterError, match="above 0"):
        ParameterPenalty([1, 0])


def test_parameter_penalty_with_equal_sizes_is_load_balancing():
    route, context = routed(torch.randn(6, 4).softmax(1), k=2), Context(1, 6)
    torch.testing.assert_close(ParameterPenalty([3] * 4, 0.1)(route, context), LoadBalancing(0.1)(route, context))


def test_loss_free_bias_chooses_but_does_not_weigh():
    scores_TE = torch.tensor([[2.0, 1.0, 0.0]]).repeat(4, 1).requires_grad_()
    bias = LossFreeBias(3, rate=0.25).train()
    select = GatedTopK(1)
    route = select(scores_TE, Context(1, 4), bias.bias_E)
    torch.testing.assert_close(route.dense()[:, 0], torch.full((4,), 2.0).sigmoid())
    bias(route, Context(1, 4))
    bias.advance(0.1)
    assert bias.bias_E.tolist() == [-0.25, 0.25, 0.25]
    moved = select(scores_TE, Context(1, 4), bias.bias_E)
    assert moved.counts_E.tolist() == [0, 4, 0], "sigmoid 0.88 - 0.25 is below 0.73 + 0.25"
    torch.testing.assert_close(moved.dense()[:, 1], torch.full((4,), 1.0).sigmoid())
    (gradient,) = torch.autograd.grad(moved.dense().sum(), scores_TE)
    slope = torch.tensor(1.0).sigmoid() * (1 - torch.tensor(1.0).sigmoid())
    torch.testing.assert_close(gradient, slope * torch.tensor([[0.0, 1.0, 0.0]]).repeat(4, 1))
    assert isinstance(route, Route)
