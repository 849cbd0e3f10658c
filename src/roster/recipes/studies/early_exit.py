"""JEI-DNN: gates that decide where an input leaves a stack of layers, trained together with the heads there.

Trains: heads and gates, and whatever of the layers is not frozen.
Source: Regol, Chataoui and Coates, 2023, arXiv:2310.09163.
Differences: see `roster.moe.early_exit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roster.recipes.recipe import Recipe


def jei_dnn(trade: float = 0.1) -> Callable[..., Any]:
    """`(layers, heads, costs=None) -> EarlyExit`.

    Args:
        trade: nats of loss that the whole stack's cost must save.
    """
    from roster.moe.early_exit import EarlyExit

    def build(layers: Any, heads: Any, costs: Any = None) -> EarlyExit:
        return EarlyExit(layers, heads, costs, trade)

    return build


RECIPE = Recipe(
    slug="jei-dnn",
    title="JEI-DNN",
    source="Regol, Chataoui and Coates, 2023, Jointly-Learned Exit and Inference, arXiv:2310.09163",
    compose=jei_dnn,
    trains="everything",
    batch_invariant=True,
    claim="At equal mean cost, gates trained with the heads are more accurate and better calibrated than confidence "
    "thresholds.",
    evidence="docs/results/claims.md",
    kind="study",
)
