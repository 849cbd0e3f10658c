"""The plain routers that people build first, all with the same rule: quality less what the cost is worth.

kNN, a k-means table, matrix factorisation, logistic regression and boosted trees on vectors, a stacked ensemble of
some of them, and Elo ratings. They come without a claim of their own; docs/results/lm.md has figures of all but the
ensemble beside the published methods.
"""

from __future__ import annotations

from functools import partial

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import KNN, Boosted, Domains, Elo, Ensemble, Factors, KMeansTable, Logistic
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def knn(neighbours: int = 40, cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """Mean score of the most similar prompts.

    Args:
        neighbours: k.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    return Routing(KNN(neighbours, encoder=named_encoder(encoder)), Weights(cost_weight))


def kmeans(clusters: int = 40, cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """Mean score in the prompt's cluster.

    Args:
        clusters: at most so many.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    return Routing(KMeansTable(clusters, encoder=named_encoder(encoder)), Weights(cost_weight))


def factorisation(rank: int = 5, cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """Matrix factorisation with the prompt's factors read off its text.

    Args:
        rank: length of the factors.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    return Routing(Factors(rank, encoder=named_encoder(encoder)), Weights(cost_weight))


def logistic(strength: float = 3.0, cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """Logistic regression per model.

    Args:
        strength: inverse penalty.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    return Routing(Logistic(strength, encoder=named_encoder(encoder)), Weights(cost_weight))


def boosted(trees: int = 60, depth: int = 3, cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """Gradient-boosted trees per model.

    Args:
        trees, depth: of each ensemble.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    return Routing(Boosted(trees, depth, encoder=named_encoder(encoder)), Weights(cost_weight))


def ensemble(caution: float = 0.5, folds: int = 3, cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """Neighbours, logistic regression, boosted trees and an inferred data set, stacked; less where they disagree.

    Args:
        caution: deviations that are taken off, which hold how far the members are apart.
        folds: of the cross-fitting that weighs them.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    members = (
        Domains(soft=True, encoder=named_encoder(encoder)),
        KNN(60, encoder=named_encoder(encoder)),
        Logistic(0.3, encoder=named_encoder(encoder)),
        Boosted(encoder=named_encoder(f"{encoder}+figures"), dimensions=48),
    )
    return Routing(Ensemble(members, folds), Weights(cost_weight, caution=caution))


def elo(cost_weight: float = 0.0) -> Routing:
    """Ratings from pairwise comparisons; blind to the prompt.

    Args:
        cost_weight: share of wins that one unit of the currency is worth.
    """
    return Routing(Elo(), Weights(cost_weight))


_plain = partial(
    Recipe,
    source="roster",
    trains="router",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/lm.md",
    needs=("training",),
    kind="lm",
)

RECIPES = (
    _plain(slug="lm-knn", title="k nearest neighbours", compose=knn),
    _plain(slug="lm-kmeans", title="k-means table", compose=kmeans),
    _plain(slug="lm-factorisation", title="Matrix factorisation", compose=factorisation),
    _plain(slug="lm-logistic", title="Logistic regression per model", compose=logistic),
    _plain(slug="lm-boosted", title="Boosted trees per model", compose=boosted),
    _plain(
        slug="lm-ensemble", title="Stacked ensemble", compose=ensemble, evidence="tests/lm/test_field_estimators.py"
    ),
    _plain(slug="lm-elo", title="Elo ratings", compose=elo),
)
