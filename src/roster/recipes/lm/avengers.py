"""The Avengers: clusters of prompts, a ranking of models in each, and the nearest clusters vote for the first ones.

Equation: suitability(m) = sum over the nearest clusters of softmax(-sharpness x cosine distance) / (rank + 0.1).
Shapes: centres [G, D], ranks [G, M].
Trains: nothing by gradient; k-means on vectors of length 1, means per cluster, one logistic curve.
Siblings: `lm-kmeans` reads the nearest cluster alone, and its means instead of ranks.
Source: Zhang, Li, Wang, Chen, Hao, Wang, et al., 2025, "The Avengers: A Simple Recipe for Uniting Smaller Language
    Models to Challenge Proprietary Giants", arXiv:2505.19797.
Panels: the source lets the three best models answer, several times each, and vote; that is
    `roster.lm.panel.Panel(fitted, recruits=3)`, one answer each.
Differences: clusters, softmax and ranks as in the authors' code, with 64 clusters, 11 of which vote. The curve that
    turns suitability into an expected score is ours, so that a rule can weigh cost.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import ClusterRanks
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def avengers(clusters: int = 64, nearest: int = 11, cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """The Avengers' router; `roster.lm.panel` lets several answer and vote.

    Args:
        clusters: at most so many.
        nearest: how many of them vote on a prompt.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, `api:MODEL@URL`, or a sentence-transformers model.
    """
    return Routing(ClusterRanks(clusters, nearest, encoder=named_encoder(encoder)), Weights(cost_weight))


RECIPE = Recipe(
    slug="avengers",
    title="The Avengers",
    source="Zhang et al., 2025, The Avengers: A Simple Recipe for Uniting Smaller Language Models to Challenge "
    "Proprietary Giants, arXiv:2505.19797",
    compose=avengers,
    trains="router",
    batch_invariant=True,
    claim="Ten small models, clustered and voting, surpass GPT-4.1 on ten of fifteen data sets.",
    evidence="tests/lm/test_field_estimators.py",
    needs=("training",),
    kind="lm",
)
