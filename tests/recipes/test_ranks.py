"""Recipes that route rank by rank: against the equations written out, and against whole adapters."""

import pytest
import torch

import tiny
from roster import Context, Route
from roster.adapters.attach import attach
from roster.adapters.site import routed_linears
from roster.experts import LowRankExperts, RankExperts
from roster.recipes import find
from roster.score import Linear
from roster.select import PartRoute, TopK, TopRanks


def factors(ranks, I=12, O=10):  # noqa: E741  # the legend's letters
    torch.manual_seed(4)
    return [(torch.randn(r, I), torch.randn(O, r), 16 / r) if r else None for r in ranks]


def routed(slug, **options):
    model = tiny.base()
    return attach(model, tiny.library(model, 4, ranks=[4, 2, 3, 4]), find(slug)(options), recipe=slug).eval()


def test_smora_is_the_authors_equation():
    """One LoRA: y += alpha / k * B diag(g) A x with g the k largest of sigmoid(W x) + b, over their sum, times k."""
    torch.manual_seed(0)
    rank, k, alpha = 8, 3, 16.0
    ((A_rI, B_Or, scale),) = experts_factors = factors([rank])
    assert scale == alpha / rank
    W_rI, b_r, x_TI = torch.randn(rank, 12), torch.randn(rank) * 0.1, torch.randn(5, 12)
    select = TopRanks(k, [rank], rate=1e-5)
    select.bias_ER.copy_(b_r[None])
    route = select((x_TI @ W_rI.T), Context(1, 5))
    found = RankExperts(experts_factors)(x_TI, torch.zeros(5, 10), route)
    for x_I, found_O in zip(x_TI, found, strict=True):
        s_r = torch.sigmoid(W_rI @ x_I) + b_r
        chosen = s_r.argsort(descending=True)[:k]
        g_r = torch.zeros(rank)
        g_r[chosen] = s_r[chosen] / s_r[chosen].sum() * k
        torch.testing.assert_close(found_O, alpha / k * B_Or @ (g_r * (A_rI @ x_I)), atol=1e-4, rtol=1e-5)


def test_a_mixture_of_loras_is_one_lora_with_blocks_of_ranks_switched():
    torch.manual_seed(0)
    made, x_TI = factors([4, 4, 4]), torch.randn(6, 12)
    route = TopK(2)(Linear(12, 3)(x_TI, Context(1, 6)), Context(1, 6))
    whole = LowRankExperts(made)(x_TI, torch.zeros(6, 10), route)
    by_rank = PartRoute(route.dense()[..., None].repeat(1, 1, 4))
    with torch.no_grad():
        torch.testing.assert_close(RankExperts(made)(x_TI, torch.zeros(6, 10), by_rank), whole, atol=1e-6, rtol=1e-5)
        # A route that knows nothing of ranks, such as one that the caller gives.
        plain = RankExperts(made)(x_TI, torch.zeros(6, 10), Route.from_gates(route.dense()))
        torch.testing.assert_close(plain, whole, atol=1e-6, rtol=1e-5)


def test_all_ranks_of_one_adapter_evenly_are_that_adapter():
    made, x_TI = factors([4, 2, 3]), torch.randn(6, 12)
    ranks = [4, 2, 3]
    scores_TER = torch.full((6, 3, 4), -50.0)
    scores_TER[:, 2, :3] = 2.0
    route = TopRanks(3, ranks)(scores_TER.flatten(1), Context(1, 6))
    found = RankExperts(made)(x_TI, torch.zeros(6, 10), route)
    A_rI, B_Or, scale = made[2]
    torch.testing.assert_close(found, scale * x_TI @ A_rI.T @ B_Or.T, atol=1e-4, rtol=1e-5)
    assert not route.chosen()[:, :2].any()


def test_ranks_that_an_adapter_does_not_have_are_never_chosen():
    model = routed("smora", k=9)
    for _, child in routed_linears(model):
        with torch.no_grad():
            child.router.score.weight_ERD.normal_()
            route = child.router(torch.randn(20, child.router.score.weight_ERD.shape[2]), Context(4, 5))
        assert not route.gate_TEP[:, 1, 2:].any()
        assert not route.gate_TEP[:, 2, 3:].any()
        assert ((route.gate_TEP != 0).sum((1, 2)) == 9).all()
        break


def test_the_bias_evens_out_the_load_and_padding_counts_in_none():
    torch.manual_seed(0)
    ranks, T = [4, 2], 4000
    scores_TER = torch.randn(T, 2, 4)
    scores_TER[:, 0, 0] += 2.0
    scores_TER[:, 1, 2:] = -torch.inf
    mask_BS = torch.arange(T)[None] < T // 2
    context = Context(1, T, mask_BS=mask_BS)

    def load(select):
        counted = select(scores_TER.flatten(1), context).gate_TEP[mask_BS[0]] != 0
        return counted.sum(0)[~select.absent_ER].float()

    select = TopRanks(2, ranks, rate=0.02).train()
    before = load(select)
    assert select.load_ER.sum() == T // 2 * 2
    select.advance(0.1)
    for _ in range(100):
        load(select)
        select.advance(0.1)
    after = load(select)
    assert after.std() / after.mean() < 0.3 * before.std() / before.mean()
    assert not select.bias_ER[1, 2:].any()


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(k):
    with pytest.raises(Exception, match="k >= 1"):
        routed("smora", k=k)
