"""X-MoE's own claim: cosine routing in a small space keeps representations from collapsing, and keeps routes steadier
between checkpoints, than routing by inner products (Switch), on small language models with 8 experts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evidence.checks.small_lm import SMALL, build, changed, choices, effective_rank, held_out, learn

_CHECKPOINT = SMALL.steps * 6 // 10


def check(seed: int) -> dict[str, float]:
    """Effective rank of the last hidden states, share of held-out tokens whose expert is another at the end than at
    60 % of the steps, and validation loss in nats per token."""
    figures: dict[str, float] = {}
    ids_BS = held_out()
    for name, slug in {"X-MoE": "x-moe", "Switch": "switch-transformer"}.items():
        at_checkpoint = []

        def look(step: int, model: Any, seen: list = at_checkpoint) -> None:
            if step + 1 == _CHECKPOINT:
                seen.append(choices(model, ids_BS))

        run = learn(build(slug, seed, {"num_experts": 8}), seed, each_step=look)
        figures[f"{name}, rank"] = effective_rank(run.model, ids_BS)
        figures[f"{name}, experts changed"] = changed(at_checkpoint[0], choices(run.model, ids_BS))
        figures[f"{name}, loss"] = run.validation_loss["all"]
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """On average X-MoE's rank is higher and the share of changed experts is lower."""
    mean = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    return bool(
        mean["X-MoE, rank"] > mean["Switch, rank"] and mean["X-MoE, experts changed"] < mean["Switch, experts changed"]
    )
