"""Composition of Experts: classify the prompt into a category, map categories to models under a budget.

Equation: maximise the expected quality sum_n sum_g p(g | x_n) q_{g, m(n)} within a budget on expected cost; its
    Lagrangian is quality - cost_weight x cost with the category's mean quality, `cost_weight` set by `roster lm tune`
    for the budget.
Shapes: probabilities [N, G], a table [G, M].
Trains: the classifier, on the data-set labels of the records.
Siblings: MoDEM takes the likeliest domain's model.
Source: Jain, Raju, Li, Csaki, Li, et al., 2024, "Composition of Experts: A Modular Compound AI System Leveraging Large
    Language Models", arXiv:2412.01868.
Recorded answers: not better than the look-up by data set (docs/results/lm.md).
Differences: the table is read with all categories weighted by their probability, which is this version's answer to
    prompts between categories (the paper adds a category "general" for uncertain ones). The memory tiers in which the
    paper's models live are not modelled.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import Domains
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def composition_of_experts(cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """Composition of Experts.

    Args:
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    return Routing(Domains(soft=True, encoder=named_encoder(encoder)), Weights(cost_weight))


RECIPE = Recipe(
    slug="composition-of-experts",
    title="Composition of Experts",
    source="Jain et al., 2024, Composition of Experts: A Modular Compound AI System Leveraging Large Language Models, "
    "arXiv:2412.01868",
    compose=composition_of_experts,
    trains="router",
    batch_invariant=True,
    claim="On simulated models, a category-to-model mapping fitted under a budget beats every single model of the same "
    "mean cost.",
    evidence="docs/results/claims.md",
    needs=("training", "tasks"),
    kind="lm",
)
