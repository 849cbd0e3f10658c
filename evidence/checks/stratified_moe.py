"""Stratified MoE's claim: at equal parameters the loss is below a flat mixture's, and harder tokens pass more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from evidence.checks.blocks import Batch, Net, teacher, train
from evidence.checks.clusters import OUT, WIDTH, mean_error, net, routes
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

CLUSTERS, STEPS, HIDDEN = 8, 1000, 32


def _ground(draw: Draw) -> Callable[..., Batch]:
    """Easy clusters want a linear function of the token, hard ones a random two-layer function applied twice."""
    torch.manual_seed(draw.ground)
    center_ND = torch.randn(CLUSTERS, WIDTH) * 2
    linear = torch.randn(CLUSTERS, WIDTH, OUT) * WIDTH**-0.5
    inner, outer = [teacher(WIDTH, WIDTH) for _ in range(CLUSTERS)], [teacher(WIDTH, OUT) for _ in range(CLUSTERS)]

    def batch(rows: int = 256) -> Batch:
        kind_B = torch.randint(0, CLUSTERS, (rows,))
        offset_BD = torch.randn(rows, WIDTH)
        y_BO = torch.zeros(rows, OUT)
        for kind in range(CLUSTERS):
            wanted = outer[kind](2 * inner[kind](offset_BD)) if kind % 2 else offset_BD @ linear[kind]
            y_BO = y_BO + (kind_B == kind)[:, None] * wanted
        return center_ND[kind_B] + offset_BD, y_BO, kind_B

    torch.manual_seed(draw.luck + 1_000)
    return batch


def _learned(draw: Draw, recipe: str, options: dict[str, Any] | None, hidden: int) -> tuple[Net, Callable[..., Batch]]:
    batch = _ground(draw)
    made = net(recipe, options, hidden=hidden)
    train(made, batch, draw.steps(STEPS))
    torch.manual_seed(draw.ground + 500_000)
    return made, batch


def _error(recipe: str, options: dict[str, Any] | None = None, hidden: int = HIDDEN) -> Contender:
    return lambda draw: mean_error(*_learned(draw, recipe, options, hidden))


def _strata(draw: Draw) -> float:
    made, batch = _learned(draw, "stratified-moe", None, HIDDEN)
    return _correlation(made, batch(4096))


def _strata_by_lot(draw: Draw) -> float:
    """The same labels, shuffled: what the statistic is where hardness says nothing."""
    made, batch = _learned(draw, "stratified-moe", None, HIDDEN)
    drawn = batch(4096)
    return _correlation(made, drawn, drawn[2][torch.randperm(4096)])


def _told(draw: Draw) -> float:
    """Nothing is learned: a tenth of the tokens pass another number of strata than their hardness says."""
    torch.manual_seed(draw.luck)
    hard_B = torch.randint(0, 2, (4096,)).float()
    wrong_B = torch.rand(4096) < 0.1
    return float(torch.corrcoef(torch.stack([hard_B, torch.where(wrong_B, 1 - hard_B, hard_B)]))[0, 1])


@torch.no_grad()
def _correlation(made: Net, batch: Batch, kind_B: torch.Tensor | None = None) -> float:
    """Of hardness and strata over tokens, Spearman's; both take two values. Zero when one is constant."""
    strata_B = torch.stack([route.chosen().sum(1) for route in routes(made, batch)]).sum(0)
    hard_B = (batch[2] if kind_B is None else kind_B) % 2
    return float(torch.corrcoef(torch.stack([hard_B, strata_B]).float()).nan_to_num(0.0)[0, 1])


GROUND = "8 clusters, half of them easy (linear), half hard (two layers applied twice); one block; 1,000 steps"

CHECKS = (
    make_check(
        slug="stratified-moe",
        part="loss",
        version=1,
        claim="At equal parameters the loss of two strata is below that of a flat mixture.",
        ground=GROUND,
        budget="equal parameters, at most 32 units per token: 8 experts of 16, 2 at most serve, or 4 of 32",
        contenders={
            "stratified": ("2 strata of 4 experts", _error("stratified-moe")),
            "flat, top-1": ("4 experts of twice the width", _error("switch-transformer")),
            "flat, top-2": ("the same 8 experts side by side: no strata", _error("gshard-top2")),
            "double": (
                "control: top-1, experts of 64 units",
                _error("switch-transformer", None, 2 * HIDDEN),
            ),
        },
        pairs=Pairs("stratified", "flat, top-1", "flat, top-2", "double", "flat, top-1"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
    ),
    make_check(
        slug="stratified-moe",
        part="hard",
        version=1,
        claim="Harder tokens pass more strata.",
        ground=GROUND,
        budget="one mixture, 8 experts of 16 units",
        contenders={
            "stratified": ("rank correlation of hardness and strata", _strata),
            "shuffled": ("the same with hardness shuffled", _strata_by_lot),
            "told": ("control: nine tenths of the tokens pass as many strata as they are hard", _told),
        },
        pairs=Pairs("stratified", "shuffled", "shuffled", "told", "shuffled"),
        statistic=Statistic("rank correlation of hardness and strata over tokens", "higher", 0.1),
    ),
)
