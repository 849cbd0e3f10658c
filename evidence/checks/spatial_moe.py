"""Spatial MoE's claims: a gate that is a table of locations beats a dense block and a mixture that routes by content;
leaving out either training trick hurts.

Heat on a grid of 12 x 12, periodic. Three regions, bounded by two slanted lines, differ in how fast heat spreads and in
the wind. From the 3 x 3 values around a point, the change of its own value is wanted: the same values mean another
change in another region. Three experts; a row is one field, a location one point.

Shape legend: B fields, H = 12, S = H * H points, D = 9 values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import Context
from roster.experts import SwiGLU
from roster.moe.layout import Place
from roster.recipes import find

H, REGIONS, STEPS, ROWS, HIDDEN = 12, 3, 600, 16, 8
SPATIAL = {"num_experts": REGIONS, "locations": H * H, "quantile": 0.5, "classification": 20.0}


def regions() -> Tensor:
    """The region of each point, [S]."""
    row_H1, column_1H = torch.arange(H)[:, None], torch.arange(H)[None]
    return ((2 * row_H1 + column_1H) * REGIONS // (3 * H - 2)).clamp_max(REGIONS - 1).reshape(-1)


def _drawn(region_S: Tensor, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Values around each point [B, S, D] and the change wanted [B, S, 1]."""
    field = torch.randn(rows, 1, H, H)
    around = F.unfold(F.pad(field, (1, 1, 1, 1), mode="circular"), 3).transpose(1, 2)
    laplace = around[..., [1, 3, 5, 7]].sum(2) - 4 * around[..., 4]
    spread_S = torch.tensor([0.05, 0.25, 0.15])[region_S]
    wind_S = torch.tensor([0.0, 0.5, -0.5])[region_S]
    change = spread_S * laplace + wind_S * (around[..., 5] - around[..., 3])
    return around, change[..., None]


def block(recipe: str, options: dict[str, Any], hidden: int = HIDDEN) -> nn.Module:
    """One block of the recipe, whose first output is the change."""

    def make(count: int, each: int) -> SwiGLU:
        return SwiGLU(count, 9, each)

    return find(recipe)(options).block(Place("field", 0, 1, 9, hidden, make, recipe=recipe))


def _error(recipe: str, options: dict[str, Any] | None = None, hidden: int = HIDDEN) -> Contender:
    """Relative error on fresh fields. The regions are the same for every ground; fields and weights are luck."""

    def run(draw: Draw) -> float:
        region_S = regions()
        torch.manual_seed(draw.luck + 1_000)
        made = block(recipe, options or {}, hidden)
        _train(made, region_S, draw.steps(STEPS))
        torch.manual_seed(draw.ground + 500_000)
        x_BSD, y_BS1 = _drawn(region_S, 64)
        with torch.no_grad():
            off = made(x_BSD, Context(64, H * H))[..., :1] - y_BS1
        return float(off.square().mean() / y_BS1.square().mean())

    return run


def _train(made: nn.Module, region_S: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-3)
    made.train()
    for _ in range(steps):
        x_BSD, y_BS1 = _drawn(region_S)
        context = Context(ROWS, H * H)
        loss = F.mse_loss(made(x_BSD, context)[..., :1], y_BS1) + sum(context.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    made.eval()


SPATIAL_RUN = _error("spatial-moe", SPATIAL)
CONTENT: tuple[str, Contender] = (
    "routed by content, balance 0.01",
    _error("switch-transformer", {"num_experts": REGIONS}),
)
DENSE: tuple[str, Contender] = ("control: one block of 8 units, which has nothing to route", _error("dense-active"))
COMMON: dict[str, Any] = {
    "slug": "spatial-moe",
    "version": 1,
    "ground": "heat on a grid of 12 x 12 in three regions of other spread and wind; 600 steps of 16 fields",
    "budget": "3 experts of 8 units, one serves; equal but for the router",
}

CHECKS = (
    make_check(
        part="location",
        claim="A gate of locations that learns from errors beats one that routes by content.",
        contenders={
            "spatial": ("a table of locations, both training tricks", SPATIAL_RUN),
            "content": CONTENT,
            "dense": DENSE,
            "no classification": ("the gate is not taught", _error("spatial-moe", SPATIAL | {"classification": 0.0})),
        },
        pairs=Pairs("spatial", "content", "no classification", "content", "dense"),
        statistic=Statistic("relative squared error on fresh fields", "lower", 0.005),
        **COMMON,
    ),
    make_check(
        part="damping",
        claim="Damping the gradients of misrouted tokens lowers the error.",
        contenders={
            "spatial": ("damped to a tenth", SPATIAL_RUN),
            "no damping": ("not damped", _error("spatial-moe", SPATIAL | {"damping": 1.0})),
            "content": CONTENT,
            "dense": DENSE,
        },
        pairs=Pairs("spatial", "no damping", "no damping", "content", "dense"),
        statistic=Statistic("relative squared error on fresh fields", "lower", 0.005),
        **COMMON,
    ),
)
