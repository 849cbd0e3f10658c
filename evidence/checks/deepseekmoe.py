"""DeepSeekMoE's own claim: at equal parameters, fine-grained and shared experts give a lower loss than GShard's
top-2, and lose more when each token's best experts are taken away, for they are less redundant.

Small language models (see `small_lm`), 16 quarter-width experts of which one is shared against 8 of half width. Taken
away are every token's two best of 15 routed experts, and its best of 8: 13 % of the routed ones each.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from evidence.checks.small_lm import SMALL, blocks, build, learn
from roster.arena.moe.data import corpus
from roster.arena.moe.pretrain import validate
from roster.context import Context
from roster.route import AnyRoute


class WithoutBest(nn.Module):
    """Another selection, without the best experts of each token.

    Args:
        select: chooses among the rest.
        count: how many are taken away.
    """

    reads_bias = False

    def __init__(self, select: nn.Module, count: int):
        super().__init__()
        self.select, self.count = select, count

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> AnyRoute:
        """The other selection's route."""
        best_TK = scores_TE.topk(self.count, dim=1).indices
        return self.select(scores_TE.scatter(1, best_TK, -torch.inf), context, bias_E)


def check(seed: int) -> dict[str, float]:
    """Validation losses in nats, as trained and without the best experts, and parameters of the models."""
    figures = {}
    for name, recipe, taken in (("DeepSeekMoE", "deepseekmoe", 2), ("GShard", "gshard-top2", 1)):
        run = learn(build(recipe, seed), seed)
        figures[f"{name}: loss"] = run.validation_loss["all"]
        for block in blocks(run.model):
            block.router.select = WithoutBest(block.router.select, taken)
        without = validate(run.model, corpus(), SMALL)["all"]
        figures[f"{name}: loss added by taking away the best"] = without - run.validation_loss["all"]
        figures[f"{name}: parameters"] = float(run.parameters)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """On average and at most seeds the loss is lower than GShard's, and rises by more without the best experts."""
    gain = [each["GShard: loss"] - each["DeepSeekMoE: loss"] for each in figures]
    added = "loss added by taking away the best"
    needs = [each[f"DeepSeekMoE: {added}"] - each[f"GShard: {added}"] for each in figures]
    half = len(figures) / 2
    return bool(all(np.mean(values) > 0 and sum(v > 0 for v in values) > half for values in (gain, needs)))
