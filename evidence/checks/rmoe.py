"""RMoE's own claim: a router that carries its state across layers beats routers that decide layer by layer.

Toy: two mixtures. The first reads inputs that come from one of four clusters, and must apply the cluster's matrix. The
second reads fresh noise that tells nothing of the cluster, and must apply the cluster's second matrix: who
should serve there is known only to the first router.

Shape legend: T tokens, D width, E experts, N clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.experts import SwiGLU
from roster.moe.layer import MoE
from roster.router import Router
from roster.score import Linear, Recurrent
from roster.select import TopK

WIDTH, EXPERTS, HIDDEN, STEPS, TOKENS = 16, 4, 16, 1500, 256


def check(seed: int) -> dict[str, float]:
    """Relative test errors of the second layer."""
    torch.manual_seed(seed)
    center_ND = torch.randn(EXPERTS, WIDTH) * 2
    wanted = torch.randn(2, EXPERTS, WIDTH, WIDTH) * WIDTH**-0.5

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        cluster_T = torch.randint(0, EXPERTS, (TOKENS,))
        x_LTD = torch.stack([center_ND[cluster_T] + torch.randn(TOKENS, WIDTH), torch.randn(TOKENS, WIDTH)])
        return x_LTD, torch.einsum("ltod,ltd->lto", wanted[:, cluster_T], x_LTD), cluster_T

    cell = nn.GRUCell(HIDDEN, HIDDEN)
    layers = {
        "RMoE": [_layer(Recurrent(WIDTH, EXPERTS, cell, HIDDEN, index)) for index in range(2)],
        "linear": [_layer(Linear(WIDTH, EXPERTS)) for _ in range(2)],
    }
    for each in layers.values():
        _train(each, draw)
    test = [draw() for _ in range(8)]
    return {
        "RMoE": _error(layers["RMoE"], test),
        "RMoE, state set to zero": _error(layers["RMoE"], test, forget=True),
        "linear": _error(layers["linear"], test),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed RMoE's error is below the linear router's, and no longer is once the state is set to zero."""
    return all(
        each["RMoE"] < 0.9 * each["linear"] and each["RMoE, state set to zero"] > 0.9 * each["linear"]
        for each in figures
    )


def _layer(score: nn.Module) -> MoE:
    return MoE(Router(score, TopK(1, "all")), SwiGLU(EXPERTS, WIDTH, 32))


def _run(layers: list[MoE], x_LTD: Tensor, forget: bool = False) -> Tensor:
    context, out = Context(1, x_LTD.shape[1]), []
    for layer, x_TD in zip(layers, x_LTD, strict=True):
        out.append(layer(x_TD[None], context)[0])
        if forget:
            context.memory.clear()
    return torch.stack(out)


def _train(layers: list[MoE], draw) -> None:
    modules = nn.ModuleList(layers)
    optimizer = torch.optim.Adam(modules.parameters(), lr=5e-3)
    for _ in range(STEPS):
        x_LTD, y_LTD, _ = draw()
        optimizer.zero_grad()
        F.mse_loss(_run(layers, x_LTD), y_LTD).backward()
        optimizer.step()
    modules.eval()


@torch.no_grad()
def _error(layers: list[MoE], test: list[tuple[Tensor, Tensor, Tensor]], forget: bool = False) -> float:
    missed = sum(float(F.mse_loss(_run(layers, x, forget)[1], y[1])) for x, y, _ in test)
    return missed / sum(float(y[1].square().mean()) for _, y, _ in test)
