"""GraphMoE: tokens are routed to low-rank experts several times, and what was said is thought over in between.

Equation: h_0 = x; m_t = sum_i g_i(h_t) scale B_i A_i h_t; h_{t+1} = GRU(h_t, m_t); y = F(x) + m_T, g a softmax over the
    k best of W h_t, T the last of the rounds, F the dense block.
Shapes: A_i [r, D], B_i [D, r]; router [M, D]; a GRU cell of 6 D^2 weights per block. A round costs one router, k
    adapters' arithmetic (all M, below 512 ranks) and one cell.
Trains: adapters, router and cell; the block and all else are frozen.
Siblings: with one round it is a plain mixture of LoRAs beside the block (tests); `rmoe` remembers across layers, this
    within one.
Source: Tang et al., 2025, "GRAPHMOE: Amplifying Cognitive Depth of Mixture-of-Experts Network via Introducing
    Self-Rethinking Mechanism", arXiv:2501.07890.
Differences: written from the abstract and from memory; no code of the authors was found. Adapters stand beside whole
    feed-forward blocks, since a state that is thought over must be as wide as what the experts return, which the input
    of a single layer is not. `replace(model, "graphmoe", start="dense")` begins as the model itself. Experts are
    balanced by the usual loss instead of Poisson- and normal-shaped targets for their use.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing
from roster.errors import RosterError
from roster.moe.beside_dense import Rethinking
from roster.moe.beside_experts import fresh_adapters
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import TopK


def graphmoe(
    rounds: int = 3, num_experts: int = 4, k: int = 2, rank: int = 8, alpha: float = 16.0, balance: float = 0.01
) -> Layout:
    """Rounds of routing.

    Args:
        rounds: how often tokens are routed.
        num_experts: M.
        k: experts per token and round.
        rank, alpha: of every expert, scaled by alpha / rank.
        balance: coefficient of the load-balancing loss, in every round.
    """
    if min(rounds, rank) < 1:
        raise RosterError(f"graphmoe: rounds={rounds} and rank={rank} must be at least 1")

    def block(place: Place) -> nn.Module:
        place.check_choice(k, num_experts)
        router = Router(Linear(place.width, num_experts), TopK(k), [LoadBalancing(balance)])
        adapters = fresh_adapters(num_experts, place.width, rank, alpha)
        return Rethinking(place.make_experts(1, place.hidden), router, adapters, rounds)

    return Layout(block, trains=frozenset({"router", "experts"}))


RECIPE = Recipe(
    slug="graphmoe",
    title="GraphMoE",
    source="Tang et al., 2025, GRAPHMOE: Amplifying Cognitive Depth of Mixture-of-Experts Network via Introducing "
    "Self-Rethinking Mechanism, arXiv:2501.07890",
    compose=graphmoe,
    trains="router and experts",
    batch_invariant=True,
    claim="Rounds of routing with memory between them beat other mixtures of LoRAs of as many parameters.",
    evidence="tests/recipes/test_beside_dense.py",
    kind="moe",
)
