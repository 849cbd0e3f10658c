"""Kinds of feed-forward experts: plain, gated, of different widths, and null ones.

Shape legend: T tokens, E experts, D model width, F expert width.
"""

import pytest
import torch
from torch.nn import functional as nnF
from transformers import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from roster import MoE, Router, SoftRoute
from roster.context import Context
from roster.dispatch import use
from roster.errors import RosterError
from roster.experts import MLP, Gated, Ragged, SwiGLU, WithNull
from roster.route import Route
from roster.score import Linear
from roster.select import ReLU, Soft, TopK, TopP

T, E, D, F = 9, 4, 16, 24


def filled(experts: torch.nn.Module) -> torch.nn.Module:
    """Biases included."""
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return experts


def alone(experts, e: int, x_TD):
    """What one expert makes of every token."""
    return experts(x_TD, nnF.one_hot(torch.tensor(e), experts.num_experts) * len(x_TD))


def test_gpt_oss():
    """The clamped activation, with biases, beside transformers' own."""
    torch.manual_seed(0)
    config = GptOssConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, experts_implementation="eager")
    theirs, ours = GptOssExperts(config), filled(Gated(E, D, F, "clamped_swiglu", bias=True))
    with torch.no_grad():
        for name, gate, up in (
            ("gate_up_proj", ours.gate_EDF, ours.up_EDF),
            ("gate_up_proj_bias", ours.gate_bias_EF, ours.up_bias_EF),
        ):
            getattr(theirs, name).copy_(torch.stack([gate, up], -1).flatten(-2))  # interleaved there
        theirs.down_proj.copy_(ours.down_EFD)
        theirs.down_proj_bias.copy_(ours.down_bias_ED)
    x_TD = torch.randn(T, D) * 4  # far enough for the clamps to bite
    expert_TK, weight_TK = torch.rand(T, E).topk(2).indices, torch.rand(T, 2)
    got = Route.slots(expert_TK, weight_TK, E).through(ours, x_TD)
    torch.testing.assert_close(got, theirs(x_TD, expert_TK, weight_TK), rtol=1e-4, atol=1e-4)


def test_mlp_is_two_linear_layers():
    torch.manual_seed(0)
    experts, x_TD = filled(MLP(E, D, F, "gelu_new")), torch.randn(T, D)
    hidden = nnF.gelu(x_TD @ experts.up_EDF[1] + experts.up_bias_EF[1], approximate="tanh")
    expected = hidden @ experts.down_EFD[1] + experts.down_bias_ED[1]
    torch.testing.assert_close(alone(experts, 1, x_TD), expected, rtol=1e-4, atol=1e-4)


def test_unknown_activation():
    with pytest.raises(RosterError, match=r"no activation 'sillu'.*'silu'"):
        Gated(E, D, F, "sillu")
    with pytest.raises(RosterError, match="plain experts have no activation 'clamped_swiglu'"):
        MLP(E, D, F, "clamped_swiglu")


@pytest.mark.parametrize("backend", ["blocks", "grouped_mm"])
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
@pytest.mark.parametrize("bias", [True, False], ids=["biases", "no biases"])
def test_experts_of_different_widths(backend, gated, bias):
    torch.manual_seed(0)
    experts = filled(Ragged(D, [8, 16, 4, 24], gated=gated, bias=bias))
    x_TD = torch.randn(T, D, requires_grad=True)
    expert_TK, weight_TK = torch.rand(T, E).topk(2).indices, torch.rand(T, 2, requires_grad=True)
    inputs, results = (x_TD, weight_TK, *experts.parameters()), []
    for name in (backend, "reference"):
        with use(name):
            out = Route.slots(expert_TK, weight_TK, E).through(experts, x_TD)
        results.append((out, *torch.autograd.grad(out.sin().sum(), inputs)))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_ragged_of_equal_widths_is_gated():
    torch.manual_seed(0)
    ragged, gated = filled(Ragged(D, [F] * E)), Gated(E, D, F)
    with torch.no_grad():
        gated.gate_EDF.copy_(ragged.gate_FD.view(E, F, D).transpose(1, 2))
        gated.up_EDF.copy_(ragged.up_FD.view(E, F, D).transpose(1, 2))
        gated.down_EFD.copy_(ragged.down_FD.view(E, F, D))
    x_TD, counts_E = torch.randn(T, D), torch.tensor([3, 0, 5, 1])
    torch.testing.assert_close(ragged(x_TD, counts_E), gated(x_TD, counts_E), rtol=1e-4, atol=1e-5)


def test_widths_below_one():
    with pytest.raises(RosterError, match=r"width 1 or more, not \[4, 0\]"):
        Ragged(D, [4, 0])


def with_null() -> WithNull:
    return filled(WithNull(SwiGLU(2, D, F), ["zero", "copy", "constant"], D))


def expected_of(experts: WithNull, e: int, x_TD):
    """Expert e by its definition."""
    if e < 2:
        return alone(experts.inner, e, x_TD)
    share_T2 = (x_TD @ experts.mean_CD2[0]).softmax(-1)
    return {
        2: torch.zeros_like(x_TD),
        3: x_TD,
        4: share_T2[:, :1] * x_TD + share_T2[:, 1:] * experts.constant_CD[0],
    }[e]


@pytest.mark.parametrize("select", [TopK(2), TopP(0.8), ReLU(), Soft()], ids=lambda s: type(s).__name__)
def test_null_experts_behind_any_selection(select):
    torch.manual_seed(0)
    experts = with_null()
    router = Router(Linear(D, 5, std=1.0), select)
    x_TD = torch.randn(T, D)
    route = router(x_TD, Context.of(x_TD))
    got = MoE(router, experts)(x_TD[None])[0]
    read = route.dispatch_TR.T @ x_TD if isinstance(route, SoftRoute) else None
    expected = torch.zeros(T, D)
    for e in range(5):
        if read is None:
            expected += route.dense()[:, e, None] * expected_of(experts, e, x_TD)
        else:
            expected += route.combine_TR[:, e, None] * expected_of(experts, e, read)[e]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_null_experts_need_a_known_kind_and_a_width():
    with pytest.raises(RosterError, match="no null expert 'copi'; did you mean 'copy'"):
        WithNull(SwiGLU(2, D, F), ["copi"])
    with pytest.raises(RosterError, match="width"):
        WithNull(SwiGLU(2, D, F), ["constant"])
