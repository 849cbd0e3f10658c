"""Spatial MoE: where a token is decides who serves it; the gate learns from errors and not through its weights.

Equation: y = sum over the k experts with the best G[location] of E_i(x); a token whose error (the size of the loss's
gradient at its output) is above a quantile is misrouted: its gradient is damped, and a binary cross-entropy lowers the
scores of its experts there; it raises those of the experts of all other tokens.
Shapes: gate [P, E].
Trains: everything together.
Siblings: hash routing decides by the token id in a fixed way.
Source: Dryden and Hoefler, 2022, "Spatial Mixture-of-Experts", arXiv:2211.13491.
Differences: the classification loss labels a token's chosen experts alone, the source's those not chosen, too;
experts are the model's feed-forward blocks instead of convolutions, and their outputs add up instead of becoming
separate channels. In text a location is the position in the row modulo P, which few texts care for: the
method is for grids (weather), and its check runs on one.
"""

from __future__ import annotations

from torch import nn

from roster.moe.layout import Layout, Place
from roster.moe.routed_by_error import RoutedByError
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Location
from roster.select import TopK, Unit


def spatial_moe(
    num_experts: int = 4,
    k: int = 1,
    locations: int = 64,
    quantile: float = 0.5,
    classification: float = 1.0,
    damping: float = 0.1,
) -> Layout:
    """Routing by location.

    Args:
        num_experts: E.
        k: experts per token.
        locations: P.
        quantile: of the errors, above which a token counts as misrouted. A location leaves its expert once most of its
            errors are above, so the median makes a fair judge.
        classification: weight of the routing classification loss.
        damping: factor on the gradient of misrouted tokens.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(k, num_experts)
        router = Router(Location(num_experts, locations), Unit(TopK(k), straight_through=False))
        experts = place.make_experts(num_experts, place.share(k))
        return RoutedByError(router, experts, quantile, classification, damping)

    return Layout(block, remembers=True)


RECIPE = Recipe(
    slug="spatial-moe",
    title="Spatial mixture of experts (SMoE)",
    source="Dryden and Hoefler, 2022, Spatial Mixture-of-Experts, arXiv:2211.13491",
    compose=spatial_moe,
    trains="everything",
    batch_invariant=True,
    claim="The gate finds the regions of a field, beats gates that ignore the place, and needs both training tricks.",
    evidence="docs/results/claims.md",
    kind="moe",
)
