"""Finedeep's own claim: with the parameters and arithmetic of one dense block the loss is lower, and fewer
activations are near zero.

Small language models (see `small_lm`), Finedeep with 2 sub-layers of 4 experts against the dense block. An activation
is a hidden unit's value before the last matrix; it is near zero below a tenth of its layer's root mean square.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.checks.small_lm import build, held_out, learn
from roster.moe.fine_deep import FineDeep
from roster.moe.replacing import routed_blocks

NEAR = 0.1


def check(seed: int) -> dict[str, float]:
    """Validation losses in nats, shares of near-zero activations, and parameters of the models."""
    figures = {}
    for name, recipe in (("Finedeep", "finedeep"), ("dense", "dense-active")):
        run = learn(build(recipe, seed), seed)
        figures[f"{name}: loss"] = run.validation_loss["all"]
        figures[f"{name}: near zero"] = near_zero(run.model)
        figures[f"{name}: parameters"] = float(run.parameters)
    return figures


@torch.no_grad()
def near_zero(model: Any) -> float:
    """Share of hidden units near zero, over held-out tokens and layers."""
    shares: list[float] = []

    def look(experts: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows_RD, counts_E = args
        shares.extend(_share(h_RF) for h_RF in _hidden(experts, rows_RD, counts_E.tolist()))

    modules = [m for block in routed_blocks(model).values() for m in _experts(block.block)]
    hooks = [module.register_forward_pre_hook(look) for module in modules]
    model(input_ids=held_out(), use_cache=False)
    for hook in hooks:
        hook.remove()
    return float(np.mean(shares))


def _experts(block: nn.Module) -> list[nn.Module]:
    return list(block.layers) if isinstance(block, FineDeep) else [block.experts]


def _hidden(experts: nn.Module, rows_RD: Tensor, counts: list[int]) -> list[Tensor]:
    parts = zip(rows_RD.split(counts), experts.gate_EDF, experts.up_EDF, strict=True)
    return [F.silu(rows @ gate) * (rows @ up) for rows, gate, up in parts]


def _share(h_RF: Tensor) -> float:
    return float((h_RF.abs() < NEAR * h_RF.square().mean().sqrt()).float().mean())


def shown(figures: list[dict[str, float]]) -> bool:
    """On average and at most seeds the loss is lower than the dense block's, and so is the share near zero."""
    half = len(figures) / 2
    gains = [[each[f"dense: {what}"] - each[f"Finedeep: {what}"] for each in figures] for what in ("loss", "near zero")]
    return bool(all(np.mean(gain) > 0 and sum(value > 0 for value in gain) > half for gain in gains))
