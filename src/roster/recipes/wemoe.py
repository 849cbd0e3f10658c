"""WEMoE: every feed-forward block is merged anew for each row, by coefficients that the row's own tokens decide.

Equation: theta(x) = theta_0 + sum_t l_t tau_t at every matrix of a block, l = mean over the prompt of the gate, a
    network of two layers, l_t = `start` at first (which is task arithmetic); all that is no feed-forward block is
    theta_0 + 0.3 sum_t tau_t for good.
Shapes: one gate per block: [H, D], [H], [T, H], [T], H = D by default.
Trains: the gates alone, by the entropy of the next token on texts without answers.
Siblings: SMEAR's router is a softmax of the mean; AdaMerging's coefficients are the same for all rows.
Source: Tang, Shen, Luo, Yin, Zhang, Tao, 2024, "Merging Multi-Task Models via Weight-Ensembling Mixture of Experts",
    arXiv:2402.00433; its code, for images.
Differences: task vectors are adapters (of full rank exactly, or cut to a rank), and their outputs are added up instead
    of their weights, which is the same function of a linear layer. The gate reads what the layer reads, before
    attention, where the source's reads what the block reads; the mean is over the prompt, as a causal model must not
    pool over tokens it has yet to produce; rows never share a mean (the source's `batch_reduce`). `roster merge` makes
    the whole of it from a base and models.
"""

from __future__ import annotations

from roster.adapters.mixing import Mixing, Site
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import MeanGate
from roster.select import All


def wemoe(start: float = 0.3, hidden: int = 0) -> Mixing:
    """Weight-ensembling of task vectors.

    Args:
        start: every coefficient before the gates are trained.
        hidden: width of the gates; 0 for the model's own.
    """

    def router(site: Site) -> Router:
        return Router(MeanGate(site.width, site.num_experts, f"wemoe/{site.name}", hidden, start), All("none"))

    return Mixing(router, at="block", trains=frozenset({"router"}), remembers=True, reads_prompt=True)


RECIPE = Recipe(
    slug="wemoe-merging",
    title="WEMoE (weight-ensembling)",
    source="Tang et al., 2024, Merging Multi-Task Models via Weight-Ensembling Mixture of Experts, arXiv:2402.00433",
    compose=wemoe,
    trains="router",
    batch_invariant=True,
    claim="Blocks merged for each input, gates tuned without labels, beat task arithmetic and static coefficients.",
    evidence="tests/merge/test_wemoe.py",
    needs=("training",),
)
