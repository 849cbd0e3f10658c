"""HMoE's own claim: experts of different sizes with the parameter penalty reach a lower loss with fewer parameters at
work, and larger experts serve harder tokens.

Small language models (see `small_lm`), HMoE top-2 of 8 against GShard top-2 of 8 of the mean size. A token's size is
the mean hidden units of the experts that serve it, relative to that mean; its hardness is the model's own loss on the
token that follows it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from evidence.checks.small_lm import blocks, build, choices, held_out, learn


def check(seed: int) -> dict[str, float]:
    """Validation losses in nats, mean relative size at work, and its correlation with hardness over tokens."""
    run = learn(build("hmoe", seed), seed)
    size, correlation = at_work(run.model)
    return {
        "HMoE: loss": run.validation_loss["all"],
        "equal sizes: loss": learn(build("gshard-top2", seed), seed).validation_loss["all"],
        "HMoE: size at work": size,
        "correlation of size and hardness": correlation,
    }


@torch.no_grad()
def at_work(model: Any) -> tuple[float, float]:
    """Mean relative size of the experts that serve a token, and its correlation with the token's hardness."""
    ids_BS = held_out()
    logits = model(input_ids=ids_BS, use_cache=False).logits
    hardness_BS = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids_BS[:, 1:], reduction="none")
    widths = torch.tensor(blocks(model)[0].experts.widths).float()
    on_duty = choices(model, ids_BS).float()
    size_BS = (on_duty @ (widths / widths.mean()) / on_duty.sum(2)).mean(0).view(ids_BS.shape)
    both = torch.stack([size_BS[:, :-1].reshape(-1), hardness_BS.reshape(-1)])
    return float(size_BS.mean()), float(torch.corrcoef(both)[0, 1])


def shown(figures: list[dict[str, float]]) -> bool:
    """On average and at most seeds the loss is lower than with equal sizes; the size at work is below 1, and its
    correlation with hardness above 0, at every seed.
    """
    gain = [each["equal sizes: loss"] - each["HMoE: loss"] for each in figures]
    lower = np.mean(gain) > 0 and sum(value > 0 for value in gain) > len(figures) / 2
    fewer = all(each["HMoE: size at work"] < 1 for each in figures)
    return bool(lower and fewer and all(each["correlation of size and hardness"] > 0 for each in figures))
