"""Tables: mean score per group of prompts and model. The groups are clusters, or data sets that somebody names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.encode import Encoder
from roster.lm.estimate.base import Embedding, Estimates, Estimator, check, column_means, probe_scores
from roster.lm.estimate.expense import Expense
from roster.lm.records import Matrix, Records


def group_means(group_N: NDArray[Any], score_NM: Matrix, groups: int, prior: float = 0.0) -> tuple[Matrix, Matrix]:
    """(mean score, number of scores), each [G, M]; `prior` votes for the overall mean, which empty cells take."""
    overall_M = column_means(score_NM)
    one_hot_NG = np.eye(groups)[group_N]
    seen_NM = np.isfinite(score_NM)
    count_GM = one_hot_NG.T @ seen_NM
    total_GM = one_hot_NG.T @ np.where(seen_NM, score_NM, 0) + prior * overall_M
    weight_GM = count_GM + prior
    return np.where(weight_GM > 0, total_GM / np.maximum(weight_GM, 1e-9), overall_M), count_GM


def share_deviation(mean: Matrix, count: Matrix) -> Matrix:
    """Standard deviation of a share of `count` answers, never quite zero."""
    return np.sqrt((mean * (1 - mean)).clip(0.01) / np.maximum(count, 1))


class KMeansTable(Embedding):
    """k-means over the prompts, one row of mean scores per cluster.

    Args:
        clusters: at most so many.
        prior: votes of the overall mean in every cell.
        seed: of k-means.
        encoder, expense: parts.
    """

    fitted = (*Embedding.fitted, "centre_GD", "mean_GM", "std_GM")

    def __init__(
        self,
        clusters: int = 40,
        prior: float = 2.0,
        seed: int = 0,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.clusters, self.prior, self.seed = clusters, prior, seed

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Clusters the prompts and averages the scores."""
        from sklearn.cluster import KMeans

        groups = min(self.clusters, len(x_ND))
        model = KMeans(groups, n_init=1, random_state=self.seed).fit(x_ND)
        self.centre_GD = model.cluster_centers_.astype(np.float32)
        self.mean_GM, count_GM = group_means(model.labels_, records.score_NM, groups, self.prior)
        self.std_GM = share_deviation(self.mean_GM, count_GM + self.prior)

    def group(self, x_ND: NDArray[np.float32]) -> NDArray[np.int64]:
        """The nearest cluster of each prompt."""
        half_G = (self.centre_GD**2).sum(1) / 2
        group_N: NDArray[np.int64] = (x_ND @ self.centre_GD.T - half_G).argmax(1)
        return group_N

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`."""
        group_N = self.group(x_ND)
        return self.mean_GM[group_N], self.std_GM[group_N]


class DatasetTable(Estimator):
    """The data-set look-up: told the data set of each prompt, it gives every model's mean score there.

    The yardstick that a learned router has to beat: what it knows is a label, not the prompt. A data set that it has
    not seen gets the overall means.

    Args:
        expense: part.
    """

    fitted = ("mean_GM", "std_GM")
    facts = ("models", "groups")

    def __init__(self, expense: Expense | None = None):
        self.expense = expense or Expense()

    def fit(self, records: Records) -> DatasetTable:
        """Averages the scores per data set; the last row is for all others."""
        check(records)
        self.models = records.models
        self.groups = tuple(sorted(set(records.datasets)))
        group_N = np.array([self.groups.index(name) for name in records.datasets])
        mean_GM, count_GM = group_means(group_N, records.score_NM, len(self.groups))
        self.mean_GM = np.vstack([mean_GM, column_means(records.score_NM)])
        self.std_GM = share_deviation(self.mean_GM, np.vstack([count_GM, count_GM.sum(0)]))
        self.expense.fit(records)
        return self

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """What is expected of each model on each prompt's data set."""
        if datasets is None:
            raise RosterError("the data-set look-up must be told the data set of every prompt")
        at = {name: g for g, name in enumerate(self.groups)}
        group_N = np.array([at.get(name, len(self.groups)) for name in datasets])
        return Estimates(self.models, self.mean_GM[group_N], self.std_GM[group_N], *self.expense.estimate(prompts))

    def add_model(self, name: str, probes: Records) -> None:
        """A column of the probes' means per data set, each cell drawn to their overall mean by two votes."""
        score_K = probe_scores(self, name, probes)
        known = [n for n, each in enumerate(probes.datasets) if each in self.groups]
        group_K = np.array([self.groups.index(probes.datasets[n]) for n in known], dtype=int)
        mean_G1, count_G1 = group_means(group_K, score_K[known, None], len(self.groups), prior=2.0)
        mean_G1 = np.vstack([mean_G1, column_means(score_K[:, None])])
        count_G1 = np.vstack([count_G1, count_G1.sum(0)])
        self.mean_GM = np.hstack([self.mean_GM, mean_G1])
        self.std_GM = np.hstack([self.std_GM, share_deviation(mean_G1, count_G1)])
        self.expense.add_model(probes.only([name]))
        self.models = (*self.models, name)
