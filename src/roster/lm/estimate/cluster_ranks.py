"""Ranks within clusters: near clusters vote for the models that are first in them.

suitability(m) = sum over the nearest clusters c of p(c | x) / (rank of m in c + 0.1); p falls with the distance.

Source: Zhang, Li, Wang, Chen, Hao, Wang, et al., 2025, "The Avengers: A Simple Recipe for Uniting Smaller Language
Models to Challenge Proprietary Giants", arXiv:2505.19797. Clusters, softmax and ranks as in the authors' code; there
the three best models answer and vote, which is `roster.lm.panel.Panel(fitted, recruits=3)`. Here a logistic curve that
all models share turns suitability and the clusters' mean scores into an expected score, so that any rule can weigh it
against cost; with `ranks` off the means alone count.

Shape legend: N prompts, M models, D width of the encoder, G clusters.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.encode.base import normalised
from roster.lm.estimate.base import Embedding
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.logistic import fit_logistic, sigmoid
from roster.lm.estimate.table import group_means, share_deviation
from roster.lm.records import Matrix, Records


class ClusterRanks(Embedding):
    """k-means on vectors of length 1, a ranking of the models in every cluster.

    Args:
        clusters: at most so many.
        nearest: how many of them vote.
        sharpness: of the softmax over cosine distances.
        ranks: whether ranks decide; otherwise the clusters' mean scores do.
        prior: votes of the model's overall mean in every cluster.
        seed: of k-means.
        encoder, expense: parts.
    """

    fitted: ClassVar[tuple[str, ...]] = (*Embedding.fitted, "centre_GD", "mean_GM", "count_GM", "curve_1")
    facts: ClassVar[tuple[str, ...]] = (*Embedding.facts, "bias")

    def __init__(
        self,
        clusters: int = 64,
        nearest: int = 11,
        sharpness: float = 3.0,
        ranks: bool = True,
        prior: float = 2.0,
        seed: int = 0,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.clusters, self.nearest, self.sharpness, self.ranks = clusters, nearest, sharpness, ranks
        self.prior, self.seed = prior, seed

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Clusters the prompts, averages the scores in each, and fits the curve."""
        from sklearn.cluster import KMeans

        groups = min(self.clusters, len(x_ND))
        found = KMeans(groups, n_init=1, random_state=self.seed).fit(normalised(x_ND))
        self.centre_GD = found.cluster_centers_.astype(np.float32)
        self.mean_GM, self.count_GM = group_means(found.labels_, records.score_NM, groups, self.prior)
        suit_NM, _ = self.suitability(x_ND)
        self.curve_1, self.bias = fit_logistic(suit_NM.T.reshape(-1, 1), records.score_NM.T.reshape(-1), 1.0)

    def suitability(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """(how suited every model is, how many answers that rests on), each [N, M]."""
        cosine_NG = (normalised(x_ND) @ self.centre_GD.T).astype(float)
        near = min(self.nearest, cosine_NG.shape[1])
        least_N1 = -np.partition(-cosine_NG, near - 1, axis=1)[:, near - 1 : near]
        weight_NG = np.where(cosine_NG >= least_N1, np.exp(self.sharpness * (cosine_NG - 1)), 0.0)
        weight_NG /= weight_NG.sum(1, keepdims=True)
        value_GM = self.mean_GM
        if self.ranks:
            rank_GM = (-self.mean_GM).argsort(1, kind="stable").argsort(1, kind="stable")
            value_GM = 1 / (rank_GM + 0.1)
        return weight_NG @ value_GM, weight_NG @ self.count_GM

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`."""
        suit_NM, count_NM = self.suitability(x_ND)
        mean_NM = sigmoid(suit_NM * self.curve_1[0] + self.bias)
        return mean_NM, share_deviation(mean_NM, count_NM + self.prior)
