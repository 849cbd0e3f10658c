"""BECoTTA: small bottlenecks behind every block, which all domains share, and one gate per domain that chooses among
them for a whole input.

Equation: y = f + sum over the k best i of g_i A_i(f), f = F(x) the dense block's output, A_i(f) = V_i gelu(U_i f +
    b_i) + c_i; s = W_n mean(f) for a row of domain n, g a softmax over the k best of s, to which in training noise of
    the size softplus(N mean(f)) is added. The loss takes the mutual information of domains and experts off.
Shapes: gates [N, M, D]; U_i [D, r], V_i [r, D].
Trains: bottlenecks and gates; the block and all else are frozen.
Siblings: `task-moe` trains whole experts; `perft` puts low-rank adapters beside a mixture.
Source: Lee, Yoon, Hwang, 2024, "BECoTTA: Input-dependent Online Blending of Experts for Continual Test-time
    Adaptation", arXiv:2402.08712; the authors' repository is daeunni/BECoTTA.
Differences: the domain is told (`task_ids=`) instead of guessed by a discriminator. The choice is made by the mean over
    the prompt, and lasts for the answer; the source sums over an image's patches. The size of the noise is learnt for
    all domains together. In the source's release gates pass through `.item()` and the mutual information is computed
    from detached numbers, so neither trains there; here both do. Bottlenecks stand behind the feed-forward block,
    within its residual. `roster.train.AtTestTime` is the adaptation at test time: confident answers are taken for
    true, and a hundredth of the weights go back at every step.
"""

from __future__ import annotations

from torch import nn

from roster.balance import MutualInformation
from roster.errors import RosterError
from roster.experts import MLP
from roster.moe.beside_dense import Behind
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Noisy, PromptPooled, TaskGate
from roster.select import TopK


def becotta(num_experts: int = 6, k: int = 3, rank: int = 8, synergy: float = 5e-4) -> Layout:
    """Bottlenecks and a gate per domain.

    Args:
        num_experts: M.
        k: experts per row.
        rank: r, hidden units of a bottleneck; the source has 2 to 16.
        synergy: coefficient of the mutual information.
    """
    if rank < 1:
        raise RosterError(f"becotta: rank={rank} must be at least 1")

    def block(place: Place) -> nn.Module:
        place.check_choice(k, num_experts)
        gate = Noisy(TaskGate(len(place.tasks), num_experts, place.width), place.width, num_experts)
        score = PromptPooled(gate, f"becotta/{place.name}")
        router = Router(score, TopK(k), [MutualInformation(len(place.tasks), synergy)])
        experts = MLP(num_experts, place.width, rank, "gelu")
        nn.init.zeros_(experts.down_EFD)  # nothing is changed yet
        return Behind(place.make_experts(1, place.hidden), router, experts)

    return Layout(block, trains=frozenset({"router", "experts"}), tasks="given", remembers=True, reads_prompt=True)


RECIPE = Recipe(
    slug="becotta",
    title="BECoTTA",
    source="Lee et al., 2024, BECoTTA: Input-dependent Online Blending of Experts for Continual Test-time Adaptation, "
    "arXiv:2402.08712",
    compose=becotta,
    trains="router and experts",
    batch_invariant=True,
    claim="Domains that come again are answered no worse than at first, with a fiftieth of the parameters trained.",
    evidence="tests/recipes/test_beside_dense.py",
    needs=("tasks", "training"),
    kind="moe",
)
