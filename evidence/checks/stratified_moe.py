"""Stratified MoE's own claim: hard tokens pass more strata, and the error is below that of a flat mixture with as many
parameters.

Toy: 8 clusters. Easy ones want a linear function of the token, hard ones a random two-layer function applied twice.
Stratified: 2 strata of 4 experts. Flat: Switch, 4 experts of twice that width, which is the same number of parameters
and the most that a token of the stratified layer may use. One residual block each, with a balance loss of 0.01.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evidence.checks.blocks import Batch, teacher, train
from evidence.checks.clusters import OUT, WIDTH, mean_error, net, routes

CLUSTERS, STEPS = 8, 1000


def check(seed: int) -> dict[str, float]:
    """Relative errors, strata visited, and the rank correlation of hardness and strata over tokens."""
    torch.manual_seed(seed)
    center_ND = torch.randn(CLUSTERS, WIDTH) * 2
    linear = torch.randn(CLUSTERS, WIDTH, OUT) * WIDTH**-0.5
    inner, outer = [teacher(WIDTH, WIDTH) for _ in range(CLUSTERS)], [teacher(WIDTH, OUT) for _ in range(CLUSTERS)]

    def draw(rows: int = 256) -> Batch:
        kind_B = torch.randint(0, CLUSTERS, (rows,))
        offset_BD = torch.randn(rows, WIDTH)
        y_BO = torch.zeros(rows, OUT)
        for kind in range(CLUSTERS):
            hard = kind % 2 == 1
            wanted = outer[kind](2 * inner[kind](offset_BD)) if hard else offset_BD @ linear[kind]
            y_BO = y_BO + (kind_B == kind)[:, None] * wanted
        return center_ND[kind_B] + offset_BD, y_BO, kind_B

    figures = {}
    for name, recipe in (("stratified", "stratified-moe"), ("flat", "switch-transformer")):
        torch.manual_seed(seed + 100)
        contender = train(net(recipe, hidden=32), draw, STEPS)
        figures[f"{name}: error"] = mean_error(contender, draw)
        if name == "stratified":
            batch = draw(2048)
            strata_B = sum(route.chosen().sum(1) for route in routes(contender, batch))
            hard_B = batch[2] % 2
            figures["strata, easy"] = float(strata_B[hard_B == 0].float().mean())
            figures["strata, hard"] = float(strata_B[hard_B == 1].float().mean())
            figures["rank correlation"] = _correlation(hard_B, strata_B)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """The mean rank correlation of hardness and strata is positive, as it is at most seeds, and the stratified error is
    below the flat one on average and at most seeds.
    """
    half = len(figures) / 2
    positive = [each["rank correlation"] for each in figures]
    gain = [each["flat: error"] - each["stratified: error"] for each in figures]
    correlates = np.mean(positive) > 0 and sum(value > 0 for value in positive) > half
    return bool(correlates and np.mean(gain) > 0 and sum(value > 0 for value in gain) > half)


def _correlation(hard_B: Tensor, strata_B: Tensor) -> float:
    """Spearman's; both take two values only, for which it is Pearson's. Zero when one of them is constant."""
    both = torch.stack([hard_B, strata_B]).float()
    return float(torch.corrcoef(both).nan_to_num(0.0)[0, 1])
