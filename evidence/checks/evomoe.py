"""EvoMoE's own claim: experts that grow out of one, under a gate that goes from dense to sparse, beat a top-1 mixture
trained from random experts in as many steps. Small language models with 4 experts; "early" is when the copies are made.
The dense stages cost more per step; the claim is at equal steps.

"Early" was an eighth of a training of 240 steps, five steps after the copies were made; in one of 1,200 steps the same
eighth is 30 steps after, by when 2.9 experts serve.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evidence.checks.small_lm import SMALL, build, choices, held_out, learn


def check(seed: int) -> dict[str, float]:
    """Mean experts per held-out token early and at the end, and validation losses in nats per token."""
    ids_BS, experts_per_token = held_out(), []

    def look(step: int, model: Any) -> None:
        if step + 1 in (SMALL.steps // 10, SMALL.steps):
            experts_per_token.append(float(choices(model, ids_BS).sum(2).float().mean()))

    evolved = learn(build("evomoe", seed), seed, each_step=look)
    switch = learn(build("switch-transformer", seed), seed)
    return {
        "experts per token, early": experts_per_token[0],
        "experts per token, at the end": experts_per_token[1],
        "EvoMoE, loss": evolved.validation_loss["all"],
        "Switch, loss": switch.validation_loss["all"],
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed more than 3.5 of 4 experts serve early and fewer than 1.5 at the end; the mean loss is lower."""
    sparser = all(
        each["experts per token, early"] > 3.5 and each["experts per token, at the end"] < 1.5 for each in figures
    )
    return bool(sparser and np.mean([each["EvoMoE, loss"] - each["Switch, loss"] for each in figures]) < 0)
