"""VQMoE: the token's nearest code names its expert; while pre-training, an ordinary mixture stands beside.

Equation: c = argmin_e ||x - v_e||; y = g_1(x) p_i F_i(x) + g_2(x) E_c(x) with g = softmax(G x), i = argmax p.
Shapes: codes [E, D], G [2, D], router [E, D].
Trains: everything together; the codes by the quantisation loss alone.
Siblings: Switch is the first summand alone; `continuous=False` leaves the second alone, as the source does after
pre-training.
Source: Do et al., 2024, "On the effectiveness of discrete representations in sparse mixture of experts",
arXiv:2411.19402.
Differences: the expert reads the token itself, where the source mixes a tenth of its code into it; each path has
experts of its own, of half the width, where the source's paths share theirs; as many codes as experts, where the
source has more and takes them modulo E. The codes lie in the model's own space, as in the source's plain form.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing, Quantization
from roster.moe.blend import Blend
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Codebook, Linear
from roster.select import TopK


def vqmoe(
    num_experts: int = 4,
    continuous: bool = True,
    quantization: float = 0.1,
    commitment: float = 0.25,
    balance: float = 0.01,
) -> Layout:
    """Top-1 routing by codes.

    Args:
        num_experts: E.
        continuous: whether a Switch mixture stands beside.
        quantization: weight of the loss that trains the codes.
        commitment: how much of it moves the tokens rather than the codes.
        balance: weight of the load-balancing loss of the Switch mixture.
    """

    def discrete(place: Place, hidden: int) -> nn.Module:
        score = Codebook(place.width, num_experts, commitment)
        router = Router(score, TopK(1), [Quantization(quantization)], "codes")
        return MoE(router, place.make_experts(num_experts, hidden))

    def block(place: Place) -> nn.Module:
        place.check_choice(1, num_experts)
        if not continuous:
            return discrete(place, place.hidden)
        router = Router(Linear(place.width, num_experts), TopK(1, "all"), [LoadBalancing(balance)])
        switch = MoE(router, place.make_experts(num_experts, place.share(2)))
        return Blend(place.width, switch, discrete(place, place.share(2)))

    return Layout(block)


RECIPE = Recipe(
    slug="vqmoe",
    title="VQMoE",
    source="Do et al., 2024, On the effectiveness of discrete representations in SMoE, arXiv:2411.19402",
    compose=vqmoe,
    trains="everything",
    batch_invariant=True,
    claim="Experts found by quantising the token change less under noise than experts chosen by a softmax gate.",
    evidence="docs/results/claims.md",
    kind="moe",
)
