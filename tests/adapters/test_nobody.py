"""Pairs that belong to nobody leave no trace: not in the output, and not in any gradient, where a grouped matmul leaves
undefined rows behind its last group.
"""

import torch
from torch.nn import functional as F

from roster.experts import SwiGLU
from roster.route import Route

T, E, D = 16, 4, 32


def test_feed_forward_experts_with_idle_slots():
    torch.manual_seed(0)
    experts, x_TD = SwiGLU(E, D, 16), torch.randn(T, D, requires_grad=True)
    gate_TE = torch.rand(T, E)
    gate_TE = gate_TE.masked_fill(gate_TE < 0.5, 0.0).requires_grad_()
    # Memory that was used before: what is left undefined is then seldom zero.
    dirt = [torch.full((T * E, D), 1e6) for _ in range(64)]
    del dirt
    leaves = [x_TD, gate_TE, *experts.parameters()]
    route = Route.from_gates(gate_TE)
    found_TD = route.combine(experts(route.dispatch(x_TD), route.counts_E))
    expected_TD = torch.zeros(T, D)
    for e in range(E):
        h_TF = F.silu(x_TD @ experts.gate_EDF[e]) * (x_TD @ experts.up_EDF[e])
        expected_TD = expected_TD + gate_TE[:, e, None] * (h_TF @ experts.down_EFD[e])
    torch.testing.assert_close(found_TD, expected_TD, atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad(found_TD.square().sum(), leaves)
    theirs = torch.autograd.grad(expected_TD.square().sum(), leaves)
    for leaf, one, other in zip(leaves, ours, theirs, strict=True):
        if leaf is gate_TE:  # an expert off duty asks for no gradient of its gate
            other = other * (gate_TE != 0)
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
