"""CARROT: estimate quality and cost of every model, then minimise a weighted sum of both.

Equation: model = argmin_m  mu c_m(x) - (1 - mu) a_m(x), for any mu, from one pair of estimates; here divided by
    1 - mu, so that `cost_weight` = mu / (1 - mu).
Shapes: both estimates [N, M], from the k nearest training prompts.
Trains: both estimators, from records.
Siblings: `lm-knn` estimates quality alone and takes cost from the prompt's length; Tryage regresses quality with a
    network.
Source: Somerstep, Polo, de Oliveira, Mangal, Silva, Bhardwaj, Yurochkin, Maity, 2025, "CARROT: A Cost Aware Rate
    Optimal Router", arXiv:2502.03261.
Recorded answers: not better than the look-up by data set (docs/results/lm.md).
Differences: of its two estimators, kNN and a fine-tuned encoder, this is the kNN one, on TF-IDF by default. As in the
    authors' code k is found by cross-validation, one for quality and one for cost (`roster.lm.estimate.chosen_knn`
    says what differs).
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import KNN, ChosenKNN, Estimator
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def carrot(neighbours: int = 0, cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """CARROT with kNN estimates.

    Args:
        neighbours: k; 0 finds one for quality and one for cost by cross-validation.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    vectors = named_encoder(encoder)
    estimator: Estimator = ChosenKNN(encoder=vectors)
    if neighbours:
        estimator = KNN(neighbours, costs_too=True, encoder=vectors)
    return Routing(estimator, Weights(cost_weight))


RECIPE = Recipe(
    slug="carrot-router",
    title="CARROT",
    source="Somerstep et al., 2025, CARROT: A Cost Aware Rate Optimal Router, arXiv:2502.03261",
    compose=carrot,
    trains="router",
    batch_invariant=True,
    claim="On simulated models, plug-in estimates of quality and cost come nearer to the oracle's risk with more "
    "data at every trade-off, and are below a binary router's.",
    evidence="docs/results/claims.md",
    needs=("training",),
    kind="lm",
)
