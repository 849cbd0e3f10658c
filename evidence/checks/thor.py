"""THOR's own claim: random experts that must agree disagree less and learn more than random experts that need not.
Small language models with 4 experts; both are trained with two draws per batch, so that they see and compute
equally much.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from evidence.checks.small_lm import build, held_out, learn


def check(seed: int) -> dict[str, float]:
    """Symmetric KL in nats between the predictions of two draws, and validation loss in nats per token."""
    figures: dict[str, float] = {}
    # A weight that counts for nothing, but not zero: zero would train with one draw.
    for name, weight in {"THOR": 1.0, "without agreement": 1e-12}.items():
        run = learn(build("thor", seed, {"consistency": weight}), seed)
        figures[f"{name}, disagreement"] = _disagreement(run.model, seed)
        figures[f"{name}, loss"] = run.validation_loss["all"]
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed the draws agree better; the mean loss is lower."""
    agree = all(each["THOR, disagreement"] < each["without agreement, disagreement"] for each in figures)
    return bool(agree and np.mean([each["THOR, loss"] - each["without agreement, loss"] for each in figures]) < 0)


@torch.no_grad()
def _disagreement(model: Any, seed: int) -> float:
    torch.manual_seed(seed)
    model.train()  # only then experts are drawn; the model has no dropout
    one, other = (F.log_softmax(model(input_ids=held_out(), use_cache=False).logits, -1) for _ in range(2))
    model.eval()
    return float(((one.exp() - other.exp()) * (one - other)).sum(-1).mean() / 2)
