"""The whole layer: beside transformers' experts, compiled, and what its backward pass allocates."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from roster import MoE, Route, Router
from roster.dispatch import use
from roster.experts import SwiGLU
from roster.score import Linear
from roster.select import TopK

T, E, K, D, F = 13, 6, 2, 16, 24


def mixtral():
    config = MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, experts_implementation="eager")
    return MixtralExperts(config)


def qwen3():
    config = Qwen3MoeConfig(hidden_size=D, moe_intermediate_size=F, num_experts=E, experts_implementation="eager")
    return Qwen3MoeExperts(config)


@pytest.mark.parametrize("backend", ["blocks", "grouped_mm"])
@pytest.mark.parametrize("make", [mixtral, qwen3])
def test_equals_transformers_experts(make, backend):
    torch.manual_seed(0)
    theirs, ours = make(), SwiGLU(E, D, F)
    with torch.no_grad():
        theirs.gate_up_proj.copy_(torch.cat([ours.gate_EDF, ours.up_EDF], 2).transpose(1, 2))
        theirs.down_proj.copy_(ours.down_EFD.transpose(1, 2))
    x_TD = torch.randn(T, D, requires_grad=True)
    expert_TK = torch.rand(T, E).topk(K).indices
    weight_TK = torch.rand(T, K, requires_grad=True)
    expected = theirs(x_TD, expert_TK, weight_TK)
    with use(backend):
        got = Route.slots(expert_TK, weight_TK, E, full=True).through(ours, x_TD)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    grad = torch.randn(T, D)
    want = torch.autograd.grad(expected, (x_TD, weight_TK, theirs.gate_up_proj, theirs.down_proj), grad)
    x, weight, gate, up, down = torch.autograd.grad(
        got, (x_TD, weight_TK, ours.gate_EDF, ours.up_EDF, ours.down_EFD), grad
    )
    mine = (x, weight, torch.cat([gate, up], 2).transpose(1, 2), down.transpose(1, 2))
    for each, other in zip(mine, want, strict=True):
        torch.testing.assert_close(each, other, rtol=1e-4, atol=1e-5)


# Dynamo itself makes an object of the autograd function, which torch then warns about.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiles_without_a_graph_break(compiler):
    torch.manual_seed(0)
    moe = MoE(Router(Linear(D, E, std=1.0), TopK(K)), SwiGLU(E, D, F))
    compiled = torch.compile(moe, fullgraph=True, backend=compiler)
    x_BSD = torch.randn(2, 5, D, requires_grad=True)
    expected, got = moe(x_BSD), compiled(x_BSD)
    torch.testing.assert_close(got, expected)
    inputs = (x_BSD, *moe.parameters())
    grad = torch.randn_like(x_BSD)
    for mine, other in zip(
        torch.autograd.grad(got, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


class Allocations(TorchDispatchMode):
    """Counts new tensors of at least `size` elements."""

    def __init__(self, size: int):
        super().__init__()
        self.size, self.count, self.seen = size, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {each.untyped_storage().data_ptr() for each in tree_leaves((args, kwargs)) if torch.is_tensor(each)}
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if torch.is_tensor(each) and each.numel() >= self.size and each.untyped_storage().data_ptr() not in given:
                self.count += 1
        return out


def test_backward_makes_one_gradient_per_stack():
    """Not one of full size for each expert, as indexing a stacked parameter does."""
    torch.manual_seed(0)
    E, T = 32, 16
    layer = SwiGLU(E, D, F)
    route = Route.slots(torch.rand(T, E).topk(4).indices, torch.rand(T, 4), E, full=True)
    x_TD = torch.randn(T, D)
    size = layer.gate_EDF.numel()

    def indexed() -> torch.Tensor:
        out = x_TD.new_zeros(T, D)
        for e in range(E):
            gate, up, down = layer.gate_EDF[e], layer.up_EDF[e], layer.down_EFD[e]
            out = out + (torch.nn.functional.silu(x_TD @ gate) * (x_TD @ up)) @ down
        return out

    def ours() -> torch.Tensor:
        with use("blocks"):
            return route.through(layer, x_TD)

    counted = {}
    for name, make in (("ours", ours), ("indexed", indexed)):
        out = make()
        with Allocations(size) as seen:
            out.sum().backward()
        counted[name] = seen.count
    assert counted["indexed"] >= 3 * E, "the count sees what it is meant to see"
    assert counted["ours"] == 3


def test_nothing_is_kept_where_no_gradient_is_recorded():
    """Not even though the parameters would take one."""
    torch.manual_seed(0)
    layer, wide = SwiGLU(E, D, 64 * D), T * K * 64 * D
    route = Route.slots(torch.rand(T, E).topk(K).indices, torch.rand(T, K), E, full=True)
    x_TD, counted = torch.randn(T, D), []
    for recorded in (True, False):
        with use("blocks"), torch.set_grad_enabled(recorded), Allocations(wide) as seen:
            route.through(layer, x_TD)
        counted.append(seen.count)
    assert counted == [2, 0]
