"""Sinkhorn routing (S-BASE): in training the best expert of a plan that optimal transport has made even.

Equation: a = argmax_e (w_e x + v_e), v from Sinkhorn's iterations over the batch; y = softmax(W x)_a E_a(x); at
evaluation v = 0.
Shapes: router [E, D].
Trains: everything together; no balance loss.
Siblings: base-layers solves the assignment itself; loss-free balancing learns v over the steps.
Source: Clark et al., 2022, "Unified Scaling Laws for Routed Language Models" (S-BASE), arXiv:2202.01169.
Differences: a fixed number of iterations at a temperature of 0.1; the source's capacity is left out.
"""

from __future__ import annotations

from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import Sinkhorn, TopK


def sinkhorn(num_experts: int = 4, k: int = 1, iterations: int = 20, temperature: float = 0.1) -> Layout:
    """Top-k of a balanced plan.

    Args:
        num_experts: E.
        k: experts per token.
        iterations: of Sinkhorn's normalisation.
        temperature: of the plan.
    """

    def router(place: Place) -> Router:
        select = Sinkhorn(TopK(k, "all" if k == 1 else "chosen"), iterations, temperature)
        return Router(Linear(place.width, num_experts), select)

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="sinkhorn",
    title="Sinkhorn (S-BASE)",
    source="Clark et al., 2022, Unified Scaling Laws for Routed Language Models, arXiv:2202.01169",
    compose=sinkhorn,
    trains="everything",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/moe.md",
    kind="moe",
)
