"""Loss-free balancing: a bias on who is chosen replaces the balance loss, so that no gradient fights the task's.

Equation: s = sigmoid(W x); chosen = top-k of s + b; y = sum over the chosen of s_i E_i(x); after every step
b_i += rate * sign(mean load - load_i).
Shapes: router [E, D]; bias [E].
Trains: everything together; the bias moves by its own rule and gets no gradient.
Siblings: GShard spreads the load by a loss.
Source: Wang et al., 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", arXiv:2408.15664.
Differences: no shared experts (see `deepseekmoe`), so that the bias is the only difference to GShard apart from the
gate's sigmoid.
"""

from __future__ import annotations

from roster.balance import LossFreeBias
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import GatedTopK


def loss_free_balancing(
    num_experts: int = 8, k: int = 2, rate: float = 1e-3, gate: str = "sigmoid", normalize: bool = False
) -> Layout:
    """Top-k of biased gates.

    Args:
        num_experts: E.
        k: experts per token.
        rate: how far the bias moves per step.
        gate: "sigmoid" or "softmax".
        normalize: whether a token's weights are made to sum to 1.
    """

    def router(place: Place) -> Router:
        select = GatedTopK(k, gate, normalize)
        return Router(Linear(place.width, num_experts), select, [LossFreeBias(num_experts, rate)])

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="loss-free-balancing",
    title="Loss-free balancing",
    source="Wang et al., 2024, Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts, arXiv:2408.15664",
    compose=loss_free_balancing,
    trains="everything",
    batch_invariant=True,
    claim="The load is as even as with a balance loss, at a lower validation loss.",
    evidence="docs/results/claims.md",
    kind="moe",
)
