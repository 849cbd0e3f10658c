"""VQMoE's own claim: experts found by quantisation change less under noise than experts chosen by a softmax gate.

Small language models. Noise of a tenth of its size is added to what each layer's router reads of held-out text. VQMoE
is measured in both its forms: with an ordinary mixture beside (only the choices by code count), and without.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from roster.arena.checks.small_lm import block_inputs, blocks, build, changed, chosen, held_out, learn
from roster.score import Codebook

NOISE = 0.1


def check(seed: int) -> dict[str, float]:
    """Share of changed experts and validation loss in nats per token."""
    figures: dict[str, float] = {}
    models: dict[str, tuple[str, dict[str, Any]]] = {
        "VQMoE": ("vqmoe", {}),
        "VQMoE, discrete only": ("vqmoe", {"continuous": False}),
        "Switch": ("switch-transformer", {}),
    }
    for name, (slug, options) in models.items():
        run = learn(build(slug, seed, options), seed)
        figures[f"{name}, experts changed"] = _changed(run.model, codes=slug == "vqmoe", seed=seed)
        figures[f"{name}, loss"] = run.validation_loss["all"]
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed, codes change less than Switch's choices in both forms; VQMoE's mean loss is within 1 % of
    Switch's or better."""
    steady = all(
        max(each["VQMoE, experts changed"], each["VQMoE, discrete only, experts changed"])
        < each["Switch, experts changed"]
        for each in figures
    )
    loss = {name: np.mean([each[f"{name}, loss"] for each in figures]) for name in ("VQMoE", "Switch")}
    return bool(steady and loss["VQMoE"] < 1.01 * loss["Switch"])


def _changed(model: Any, codes: bool, seed: int) -> float:
    generator, ids_BS, shares = torch.Generator().manual_seed(seed), held_out(), []
    for block, x_TD in zip(blocks(model), block_inputs(model, ids_BS), strict=True):
        if isinstance(block.router.score, Codebook) != codes:
            continue
        size = x_TD.square().mean(1, keepdim=True).sqrt()
        noisy_TD = x_TD + NOISE * size * torch.randn(x_TD.shape, generator=generator)
        shares.append(changed(chosen(block, x_TD, ids_BS), chosen(block, noisy_TD, ids_BS)))
    return float(np.mean(shares))
