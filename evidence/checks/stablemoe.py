"""StableMoE's own claim: once routes are frozen no token changes its expert, and the loss ends below that of the same
mixture whose routes are never frozen. Small language models with 4 experts; frozen after 20 % of the steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evidence.checks.small_lm import SMALL, blocks, build, changed, choices, held_out, learn

_CHECKPOINT = SMALL.steps * 6 // 10


def check(seed: int) -> dict[str, float]:
    """Share of held-out tokens whose expert is another at the end than at 60 % of the steps, and validation loss in
    nats per token."""
    figures: dict[str, float] = {}
    ids_BS = held_out()
    for name in ("StableMoE", "never frozen"):
        model = build("stablemoe", seed, {"until": 0.2})
        if name == "never frozen":
            for block in blocks(model):
                block.router.score = block.router.score.inner
        at_checkpoint = []

        def look(step: int, model: Any, seen: list = at_checkpoint) -> None:
            if step + 1 == _CHECKPOINT:
                seen.append(choices(model, ids_BS))

        run = learn(model, seed, each_step=look)
        figures[f"{name}, experts changed"] = changed(at_checkpoint[0], choices(run.model, ids_BS))
        figures[f"{name}, loss"] = run.validation_loss["all"]
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed nobody changes after the freeze, but does without one; the mean loss is lower."""
    stable = all(
        each["StableMoE, experts changed"] == 0.0 and each["never frozen, experts changed"] > 0.0 for each in figures
    )
    return bool(stable and np.mean([each["StableMoE, loss"] - each["never frozen, loss"] for each in figures]) < 0)
