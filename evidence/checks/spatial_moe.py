"""Spatial MoE's own claim: a gate that is a table of locations finds the regions of a field and beats a dense block
and a mixture that routes by content; leaving out either training trick hurts.

Toy: heat on a grid of 12 x 12, periodic. Three regions, bounded by two slanted lines, differ in how fast heat spreads
and in the wind. From the 3 x 3 values around a point, the change of its own value is wanted: the same values mean
another change in another region. Three experts; a row is one field, a location one point. These are the second
settings: with a quantile of 0.7 instead of 0.5 no gate ever found a region, for a location leaves its expert only
when most of its errors are above.

Shape legend: B fields, H = 12, S = H * H points, D = 9 values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.experts import SwiGLU
from roster.moe.layout import Place
from roster.recipes import find

H, REGIONS, STEPS, ROWS, HIDDEN = 12, 3, 600, 16, 8
SPATIAL = {"num_experts": REGIONS, "locations": H * H, "quantile": 0.5, "classification": 20.0}
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "spatial": ("spatial-moe", SPATIAL),
    "no routing classification": ("spatial-moe", SPATIAL | {"classification": 0.0}),
    "no damping": ("spatial-moe", SPATIAL | {"damping": 1.0}),
    "routed by content": ("switch-transformer", {"num_experts": REGIONS}),
    "dense": ("dense-active", {}),
}


def regions() -> Tensor:
    """The region of each point, [S]."""
    row_H1, column_1H = torch.arange(H)[:, None], torch.arange(H)[None]
    return ((2 * row_H1 + column_1H) * REGIONS // (3 * H - 2)).clamp_max(REGIONS - 1).reshape(-1)


def draw(region_S: Tensor, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Values around each point [B, S, D] and the change wanted [B, S, 1]."""
    field = torch.randn(rows, 1, H, H)
    around = F.unfold(F.pad(field, (1, 1, 1, 1), mode="circular"), 3).transpose(1, 2)
    laplace = around[..., [1, 3, 5, 7]].sum(2) - 4 * around[..., 4]
    spread_S = torch.tensor([0.05, 0.25, 0.15])[region_S]
    wind_S = torch.tensor([0.0, 0.5, -0.5])[region_S]
    change = spread_S * laplace + wind_S * (around[..., 5] - around[..., 3])
    return around, change[..., None]


def block(recipe: str, options: dict[str, Any]) -> nn.Module:
    """One block of the recipe, whose first output is the change."""

    def make(count: int, each: int) -> SwiGLU:
        return SwiGLU(count, 9, each)

    return find(recipe)(options).block(Place("field", 0, 1, 9, HIDDEN, make, recipe=recipe))


def check(seed: int) -> dict[str, float]:
    """Relative errors, and the adjusted Rand index of the gate's choices and the regions."""
    region_S = regions()
    figures = {}
    for name, (recipe, options) in CONTENDERS.items():
        torch.manual_seed(seed)
        made = block(recipe, options)
        _train(made, region_S)
        x_BSD, y_BS1 = draw(region_S, 64)
        with torch.no_grad():
            off = made(x_BSD, Context(64, H * H))[..., :1] - y_BS1
        figures[f"{name}: error"] = float(off.square().mean() / y_BS1.square().mean())
        if recipe == "spatial-moe":
            found = made.router.score.table_PE.argmax(1)
            figures[f"{name}: regions found"] = float(adjusted_rand_score(region_S.numpy(), found.numpy()))
    return figures


def _train(made: nn.Module, region_S: Tensor) -> None:
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, 1e-3)
    made.train()
    for _ in range(STEPS):
        x_BSD, y_BS1 = draw(region_S)
        context = Context(ROWS, H * H)
        loss = F.mse_loss(made(x_BSD, context)[..., :1], y_BS1) + sum(context.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    made.eval()


def shown(figures: list[dict[str, float]]) -> bool:
    """On average the error is the lowest of all, both ablations included, and the regions are found with an adjusted
    Rand index of at least 0.8.
    """
    means = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    errors = {name: value for name, value in means.items() if name.endswith("error")}
    return bool(min(errors, key=errors.__getitem__) == "spatial: error" and means["spatial: regions found"] >= 0.8)
