"""Mixture of linguistic experts: every layer weighs its adapters by numbers of its own, learnt through Gumbel noise,
keeps the best one after a while, and trains on with it; adapters may read parses of the sentence.

Equation: y = W x + sum_i w_i scale_i B_i (A_i x + sum_q V_iq mean over links of relation q of A_i x_u); w =
    softmax((a + Gumbel noise) / temperature), a one number per expert and layer; without noise at evaluation. V only
    for experts that `graphs` names.
Shapes: a is [E] at every linear layer; V is [r, r] per expert and relation.
Trains: a, the adapters and V together; a gets no gradient once one expert is left.
Siblings: `uniform` has equal weights; `lora-hub` finds one set of weights for all layers, without gradients.
Source: Li, Carenini et al., 2023, "Mixture-of-Linguistic-Experts Adapters for Improving and Interpreting Pre-trained
    Language Models", arXiv:2310.16240.
Differences: written from the abstract: that a layer keeps one expert is from memory. LoRAs on linear layers instead of
    bottlenecks behind sub-layers, so that a folder's adapters are the experts; without `graphs` the result merges into
    one plain adapter. With `graphs` a token sees those after it, so it is for encoders. Parses come from the caller
    (`model.roster.head.add`, `roster.adapters.parses.read_conllu`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from roster.adapters.mixing import Mixing, Site
from roster.adapters.parses import Parses
from roster.errors import RosterError, nearest
from roster.experts import GraphExperts
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Constant
from roster.select import GumbelMixture


def mixture_linguistic_experts(
    graphs: Mapping[str, Sequence[str]] | None = None,
    temperature: float = 1.0,
    prune_at: float = 0.5,
    train_experts: bool = True,
) -> Mixing:
    """Adapters weighed per layer.

    Args:
        graphs: the relations that an expert reads, by the expert's name; None for experts without graphs.
        temperature: of the weights.
        prune_at: share of the training after which every layer keeps one expert; above 1 it keeps all.
        train_experts: False trains only the weights.
    """
    relations = list(dict.fromkeys(name for each in (graphs or {}).values() for name in each))
    made: list[Parses] = []

    def router(site: Site) -> Router:
        scores = Constant(torch.zeros(site.num_experts), trains=True)
        return Router(scores, GumbelMixture(site.num_experts, temperature, prune_at))

    def head(whole: Site) -> Parses:
        for name in graphs or {}:
            if name not in whole.experts:
                raise RosterError(
                    f"mixture-linguistic-experts: no expert is called {name!r}: {nearest(name, whole.experts)}"
                )
        made[:] = [Parses(relations)]
        return made[0]

    def experts(site: Site) -> nn.Module:
        reads = [{relations.index(each) for each in (graphs or {}).get(name, ())} for name in site.experts]
        return GraphExperts(site.factors, reads, len(relations), made[0].links, train_experts)

    return Mixing(
        router,
        at="linear",
        head=head if relations else None,
        experts=experts if relations else None,
        constant=None if relations else "always",
        causal=not relations,
        trains=frozenset({"router", "experts"} if train_experts else {"router"}),
    )


RECIPE = Recipe(
    slug="mixture-linguistic-experts",
    title="Mixture of linguistic experts",
    source="Li et al., 2023, Mixture-of-Linguistic-Experts Adapters for Improving and Interpreting Pre-trained "
    "Language Models, arXiv:2310.16240",
    compose=mixture_linguistic_experts,
    trains="router and experts",
    batch_invariant=True,
    claim="Adapters that know linguistic structures, mixed and then pruned to one per layer, beat plain adapters of as "
    "many parameters.",
    evidence="tests/recipes/test_linguistic_experts.py",
    needs=("training",),
)
