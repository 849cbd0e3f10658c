"""Self-MoE (MiXSE): experts that a model taught itself, one per skill, and one small router that all layers share.

Equation: alpha = top k of softmax(theta x), not made to sum to one; y = W x + sum_e alpha_e scale_e B_e A_e x.
Shapes: one theta for the whole network, [E, D].
Trains: theta alone, on the data of all skills together; base and experts are frozen.
Siblings: `mov-molora` has a router per layer, which sums to one.
Source: Kang et al., 2024, "Self-MoE: Towards Compositional Large Language Models with Self-Specialized Experts",
    arXiv:2406.12034.
Differences: theta reads what enters a block, once for all its layers: the layers of a block read inputs of different
    widths, which one matrix cannot. How the experts' data are made (the base writes instructions and answers from a
    hundred seeds per skill) is not part of the recipe: it takes the folder of experts as it is.
"""

from __future__ import annotations

from roster.adapters.mixing import Mixing
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Carried, Gate
from roster.select import TopK

_KEY = "self-moe"


def self_moe(top_k: int = 1) -> Mixing:
    """One router for all layers.

    Args:
        top_k: experts per token and block.
    """
    return Mixing(
        lambda site: Router(Carried(_KEY), TopK(top_k, "all")),
        at="block",
        head=lambda whole: Gate(whole.width, whole.num_experts, _KEY),
        trains=frozenset({"router"}),
    )


RECIPE = Recipe(
    slug="self-moe",
    title="Self-MoE (MiXSE)",
    source="Kang et al., 2024, Self-MoE: Towards Compositional Large Language Models with Self-Specialized Experts, "
    "arXiv:2406.12034",
    compose=self_moe,
    trains="router",
    batch_invariant=True,
    claim="Routed self-taught experts improve every skill, where one adapter for one skill costs the others.",
    evidence="tests/recipes/test_transfer.py",
    needs=("training",),
)
