"""JiuZhang 2.0: for several related tasks, a shared expert beside routed ones, and task prompts at the router.

Equation: y = S(x) + p_i E_i(x) with p = softmax(W (x + prompt[task])) and i = argmax p; plus the load-balancing loss.
Shapes: router [E, D], prompts [N, D]; with the defaults, 7 routed experts and a shared one, each half of a dense block.
Trains: everything together.
Siblings: DeepSeekMoE without the prompts; Task-MoE routes by the task alone.
Source: Zhao et al., 2023, "JiuZhang 2.0: A Unified Chinese Pre-trained Language Model for Multi-task Mathematical
Problem Solving", arXiv:2306.11027.
Differences: the layer only. The source's pre-training on mathematical texts, its decoders for understanding and
generation, and the refinement of answers by another language model are no part of a feed-forward block. The prompt is a
vector at the router instead of tokens in the text.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing
from roster.moe.dense import Dense, Sum
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear, Prompted
from roster.select import TopK


def jiuzhang_2(num_experts: int = 7, k: int = 1, balance: float = 0.01) -> Layout:
    """A shared expert and routed ones that are told the task.

    Args:
        num_experts: E, the routed ones.
        k: routed experts per token.
        balance: weight of the load-balancing loss.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(k, num_experts)
        each = place.share(k + 1)
        score = Prompted(Linear(place.width, num_experts), len(place.tasks), place.width)
        routed = MoE(
            Router(score, TopK(k, "all"), [LoadBalancing(balance)]),
            place.make_experts(num_experts, each),
        )
        return Sum(Dense(place.make_experts(1, each)), routed)

    return Layout(block, tasks="given")


RECIPE = Recipe(
    slug="jiuzhang-2",
    title="JiuZhang 2.0",
    source="Zhao et al., 2023, JiuZhang 2.0, arXiv:2306.11027",
    compose=jiuzhang_2,
    trains="everything",
    batch_invariant=True,
    claim="One mixture for related tasks beats one dense model of equal cost; unrelated tasks use different experts.",
    evidence="docs/results/claims.md",
    needs=("tasks",),
    kind="moe",
)
