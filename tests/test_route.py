"""Routes: whatever made them, dispatch and combine agree with the dense matrix."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from roster import MoE, Route, Router, SoftRoute
from roster.context import Context
from roster.dispatch import grouped_matmul, reference
from roster.experts import SwiGLU
from roster.score import Linear
from roster.select import ReLU, Soft, TopK, TopP

sizes = st.integers(1, 6)


def random_route(T: int, E: int, seed: int, kind: str) -> Route:
    generator = torch.Generator().manual_seed(seed)
    if kind == "slots":
        K = 1 + seed % E
        experts = torch.stack([torch.randperm(E, generator=generator)[:K] for _ in range(T)])
        weights = torch.rand(T, K, generator=generator)
        nobody = torch.rand(T, K, generator=generator) < 0.3
        return Route.slots(experts.masked_fill(nobody, E), weights.masked_fill(nobody, 0.0), E)
    gates = torch.rand(T, E, generator=generator)
    if kind == "gates":
        return Route.from_gates(gates, gates > 0.5)
    token, expert = gates.gt(0.4).nonzero().unbind(1)
    return Route(token, expert, torch.rand(len(token), generator=generator), T, E)


@given(T=sizes, E=sizes, seed=st.integers(0, 99), kind=st.sampled_from(["slots", "gates", "triples"]))
def test_combine_is_the_dense_matrix(T, E, seed, kind):
    route = random_route(T, E, seed, kind)
    x_TD = torch.randn(T, 3)
    token_R, expert_R, _ = route.triples()
    assert (expert_R.diff() >= 0).all(), "pairs are grouped by expert"
    assert torch.equal(route.counts_E, torch.bincount(expert_R, minlength=E + 1)[:E])
    rows_RD = route.dispatch(x_TD)
    assert torch.equal(rows_RD, x_TD[token_R])
    scale_E = torch.arange(1.0, E + 2)
    got = route.combine(rows_RD * scale_E[expert_R, None])
    expected = (route.dense() @ scale_E[:E])[:, None] * x_TD
    torch.testing.assert_close(got, expected)
    assert (route.dense() != 0).logical_and(~route.chosen()).sum() == 0


@given(T=sizes, E=sizes, seed=st.integers(0, 99), kind=st.sampled_from(["slots", "gates", "triples"]))
def test_masked_tokens_have_nobody(T, E, seed, kind):
    route = random_route(T, E, seed, kind)
    mask_T = torch.rand(T) > 0.4
    kept = route.keep(mask_T)
    assert torch.equal(kept.dense(), route.dense() * mask_T[:, None])
    assert torch.equal(kept.chosen(), route.chosen() & mask_T[:, None])
    assert torch.equal(kept.counts_E, kept.chosen().sum(0))


@given(T=sizes, E=sizes, seed=st.integers(0, 99))
def test_the_first_experts_alone(T, E, seed):
    route = random_route(T, E + 1, seed, "slots")
    first = route.first(E)
    assert first.num_experts == E
    assert torch.equal(first.dense(), route.dense()[:, :E])
    assert torch.equal(first.chosen(), route.chosen()[:, :E])
    assert (first.weight_R[first.expert_R == E] == 0).all()


def test_who_is_masked_weighs_nothing():
    kept = random_route(5, 3, 1, "triples").keep(torch.tensor([True, False, True, False, False]))
    assert (kept.weight_R[kept.expert_R == 3] == 0).all()


def test_rows_of_nobody_may_hold_anything():
    route = Route.slots(torch.tensor([[0], [1]]), torch.tensor([[1.0], [0.0]]), num_experts=1)
    out_TD = route.combine(torch.tensor([[2.0], [float("nan")]]))
    assert torch.equal(out_TD, torch.tensor([[2.0], [0.0]]))


@pytest.mark.parametrize("select", [TopK(2), TopP(0.6), ReLU(), Soft(slots=2)], ids=lambda s: type(s).__name__)
def test_moe_is_the_sum_over_experts(select):
    """The layer against a loop over experts, with padding in the batch."""
    B, S, D, E = 2, 5, 8, 3
    scores_per_expert = getattr(select, "slots", 1)
    moe = MoE(Router(Linear(D, E * scores_per_expert, std=1.0), select), SwiGLU(E, D, 4))
    x_BSD = torch.randn(B, S, D)
    mask_BS = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    context = Context.of(x_BSD, mask_BS=mask_BS)
    out_TD = moe(x_BSD, context).view(-1, D)
    assert torch.equal(out_TD[~mask_BS.view(-1)], torch.zeros(2, D)), "only the residual passes padding on"
    x_TD = x_BSD.view(-1, D)
    route = moe.router(x_TD, context)
    expected = torch.zeros(B * S, D)
    if isinstance(route, SoftRoute):
        rows = route.dispatch_TR.T @ x_TD
        counts = route.counts_E
        one_E = torch.eye(E, dtype=torch.long)
        parts = enumerate(rows.split(counts.tolist()))
        out = torch.cat([moe.experts(part, one_E[e] * len(part)) for e, part in parts])
        expected = route.combine_TR @ out
    else:
        for e in range(E):
            everything = torch.zeros(E, dtype=torch.long)
            everything[e] = B * S
            expected += route.dense()[:, e, None] * moe.experts(x_TD, everything)
    torch.testing.assert_close(out_TD, expected, rtol=1e-4, atol=1e-5)


def test_soft_route_keeps_rows_of_a_batch_apart():
    D, E = 4, 2
    moe = MoE(Router(Linear(D, E, std=1.0), Soft()), SwiGLU(E, D, 4))
    x_BSD = torch.randn(3, 5, D)
    torch.testing.assert_close(moe(x_BSD)[1:2], moe(x_BSD[1:2]))


@pytest.mark.parametrize("out", [4, 5], ids=["aligned", "not aligned"])
def test_grouped_matmul_matches_reference_with_gradients(out):
    counts_E = torch.tensor([2, 0, 3])
    rows = torch.randn(6, 4, requires_grad=True)
    weight = torch.randn(3, 4, out, requires_grad=True)
    fast = grouped_matmul(rows, weight, counts_E)[:5]
    slow = reference.matmul(rows, weight, counts_E)[:5]
    torch.testing.assert_close(fast, slow)
    for a, b in zip(
        torch.autograd.grad(fast.sin().sum(), (rows, weight)),
        torch.autograd.grad(slow.sin().sum(), (rows, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
