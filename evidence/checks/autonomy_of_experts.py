"""Autonomy-of-Experts' own claim: experts that choose themselves do as well as a router at equal cost, and the norm of
their activation says who is good at a token. Small language models, 8 experts of which 2 serve.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from evidence.checks.small_lm import SMALL, blocks, build, learn
from roster.arena.moe.data import corpus
from roster.arena.moe.pretrain import validate
from roster.context import Context


class Opposite(nn.Module):
    """Another score with its sign turned: the least suited come first."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        return -self.inner(x_TD, context)


def check(seed: int) -> dict[str, float]:
    """Validation losses in nats per token, and parameters."""
    figures: dict[str, float] = {}
    for name, slug in {"Autonomy-of-Experts": "autonomy-of-experts", "router": "gshard-top2"}.items():
        run = learn(build(slug, seed), seed)
        figures[name] = run.validation_loss["all"]
        figures[f"{name}, parameters"] = run.parameters
        if slug == "autonomy-of-experts":
            for block in blocks(run.model):
                block.router.score = Opposite(block.router.score)
            figures["lowest norms forced"] = validate(run.model, corpus(), SMALL)["all"]
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """Its mean loss is at most 0.5 % above the router's, and at every seed forcing the lowest norms costs loss."""
    mean = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    forced = all(each["lowest norms forced"] > each["Autonomy-of-Experts"] for each in figures)
    return bool(forced and mean["Autonomy-of-Experts"] <= 1.005 * mean["router"])
