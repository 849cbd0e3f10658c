"""MiLoRA: the prompt decides once, block by block, which experts serve; every later token reuses the choice.

Equation: s = W act(mean over the prompt of x); softmax over the top n; one route per row and block.
Shapes: one router per block, [E, D].
Trains: routers, and in the source the LoRA modules with them; `train_experts=False` learns only the routers.
Siblings: SMEAR pools likewise but mixes all experts.
Claim: shown after 100 training steps, where the per-token router it is held against is itself far from converged.
Source: Zhang et al., 2024, "MiLoRA: Efficient Mixture of Low-Rank Adaptation for Large Language Models Fine-tuning",
    arXiv:2410.18035.
Differences: the source's experts are the LoRA modules of one adapter (query, key, value, ...), of which a layer's
    router switches some on; here they are the adapters of a library, so that the method can be compared with others
    on the same folder. The source learns its activation function; here it is GELU.
"""

from __future__ import annotations

from torch import nn

from roster.adapters.mixing import Mixing, Site
from roster.balance import LoadBalancing
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear, PromptPooled
from roster.select import TopK


def milora(top_k: int = 2, balance: float = 0.01, train_experts: bool = True) -> Mixing:
    """MiLoRA over a library.

    Args:
        top_k: experts per row and block.
        balance: coefficient of the load-balancing loss while training.
        train_experts: False trains only the routers.
    """

    def router(site: Site) -> Router:
        score = PromptPooled(Linear(site.width, site.num_experts), f"milora/{site.name}", nn.GELU())
        return Router(score, TopK(top_k), [LoadBalancing(balance)])

    trains = frozenset({"router", "experts"} if train_experts else {"router"})
    return Mixing(router, at="block", trains=trains, remembers=True, reads_prompt=True)


RECIPE = Recipe(
    slug="milora-prompt-routed",
    title="MiLoRA",
    source="Zhang et al., 2024, MiLoRA: Efficient Mixture of Low-Rank Adaptation, arXiv:2410.18035",
    compose=milora,
    trains="router and experts",
    batch_invariant=True,
    claim="Routing once per prompt matches per-token routing, with one router call per generated sequence.",
    evidence="docs/results/claims.md",
    needs=("training",),
)
