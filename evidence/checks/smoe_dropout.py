"""SMoE-Dropout's own claim: trained with more and more experts under a frozen random router, a block gets better with
every expert added at inference, which one trained with a fixed number does not; and with all it beats the dense
block of the same size. Small language models, a block in 8 parts.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from evidence.checks.small_lm import SMALL, blocks, build, learn
from roster.arena.moe.data import corpus
from roster.arena.moe.pretrain import validate

AT = (1, 2, 3, 4, 5, 6, 7, 8)
FIXED = 2


def check(seed: int) -> dict[str, float]:
    """Validation losses in nats per token with k experts at inference."""
    growing = learn(build("smoe-dropout", seed), seed).model
    fixed = build("smoe-dropout", seed, {"start": FIXED})
    for block in blocks(fixed):
        block.router.select.end = FIXED
    learn(fixed, seed)
    figures = {f"growing, {k} at inference": _loss(growing, k) for k in AT}
    figures.update({f"fixed at {FIXED}, {k} at inference": _loss(fixed, k) for k in AT})
    figures["dense"] = learn(build("dense-active", seed), seed).validation_loss["all"]
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """On average the loss falls with every expert added and ends below the dense block's; where the number was fixed in
    training, it is lowest at that number."""
    mean = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    growing = [mean[f"growing, {k} at inference"] for k in AT]
    fixed = [mean[f"fixed at {FIXED}, {k} at inference"] for k in AT]
    return bool(
        all(more < less for less, more in itertools.pairwise(growing))
        and int(np.argmin(fixed)) == AT.index(FIXED)
        and growing[-1] < mean["dense"]
    )


def _loss(model: Any, k: int) -> float:
    for block in blocks(model):
        block.router.select.end = max(AT)
        block.router.select.k_now.fill_(k)
    return validate(model, corpus(), SMALL)["all"]
