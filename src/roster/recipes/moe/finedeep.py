"""Finedeep: a dense block cut into sub-layers of small experts, all at work, gated by what they computed.

Equation: h_0 = x; h_{m+1} = h_m + sum over the K experts of r_k E_k(norm(h_m)) with
r_k = sigmoid(w_k . E_k(norm(h_m))); y = h_M - x.
Shapes: gate of each sub-layer [K, D]; experts of hidden / (M K) units each.
Trains: everything together.
Siblings: no sparse selection and no extra parameters, unlike the mixtures; a dense block is M = K = 1 without the gate.
Source: Pan et al., 2025, "Finedeep: Mitigating Sparse Activation in Dense LLMs via Multi-Layer Fine-Grained Experts",
arXiv:2502.12928.
Differences: the first sub-layer reads the block's input as the model has normalised it, and the later ones normalise
that plus what was added, for a block does not see the residual stream.
"""

from __future__ import annotations

from torch import nn

from roster.errors import RosterError
from roster.moe.fine_deep import FineDeep
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import OfOutputs
from roster.select import All


def finedeep(sublayers: int = 2, experts: int = 4) -> Layout:
    """Sub-layers of small experts.

    Args:
        sublayers: M.
        experts: K, of each sub-layer.
    """
    if min(sublayers, experts) < 1:
        raise RosterError(f"recipe 'finedeep': sublayers={sublayers} and experts={experts} must be at least 1")

    def block(place: Place) -> nn.Module:
        each = place.share(sublayers * experts)
        layers = [place.make_experts(experts, each) for _ in range(sublayers)]
        routers = [
            Router(OfOutputs(place.width, experts), All("sigmoid"), site=f"sublayer{index}")
            for index in range(sublayers)
        ]
        return FineDeep(place.width, layers, routers)

    return Layout(block)


RECIPE = Recipe(
    slug="finedeep",
    title="Finedeep",
    source="Pan et al., 2025, Finedeep, arXiv:2502.12928",
    compose=finedeep,
    trains="everything",
    batch_invariant=True,
    claim="With the parameters of one dense block the loss is lower, and fewer activations are near zero.",
    evidence="docs/results/claims.md",
    kind="moe",
)
