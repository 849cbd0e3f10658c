"""Aptitude: a model is the list of its results on a set of core tasks; one scorer reads list and prompt.

P(good) = sigmoid(logit of the model's expected aptitude for this prompt, rescaled, + w . x). The expected aptitude is
the mean over core tasks, weighted by how much the prompt belongs to each. Nothing in the scorer knows the model by
name, so a model that was never seen in training is routed from its aptitudes alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.estimate.base import Embedding, probe_scores
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.logistic import fit_logistic, sigmoid
from roster.lm.estimate.table import group_means, share_deviation
from roster.lm.records import Matrix, Records


class Aptitude(Embedding):
    """Core tasks are clusters of the training prompts.

    Args:
        tasks: at most so many core tasks.
        prior: votes of the model's overall mean in each task's result.
        sharpness: of a prompt's membership; large means the nearest task only.
        seed: of the clustering.
        encoder, expense: parts.
    """

    fitted = (*Embedding.fitted, "centre_GD", "aptitude_GM", "count_GM", "weight_F")
    facts = (*Embedding.facts, "bias")

    def __init__(
        self,
        tasks: int = 50,
        prior: float = 5.0,
        sharpness: float = 15.0,
        seed: int = 0,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.tasks, self.prior, self.sharpness, self.seed = tasks, prior, sharpness, seed

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Finds the core tasks, takes every model's test, and trains the scorer that all models share."""
        from sklearn.cluster import KMeans

        groups = min(self.tasks, len(x_ND))
        clusters = KMeans(groups, n_init=1, random_state=self.seed).fit(x_ND)
        self.centre_GD = clusters.cluster_centers_.astype(np.float32)
        self.aptitude_GM, self.count_GM = group_means(clusters.labels_, records.score_NM, groups, self.prior)
        rows = np.concatenate([self._features(x_ND, m) for m in range(len(records.models))])
        self.weight_F, self.bias = fit_logistic(rows, records.score_NM.T.reshape(-1), 1.0)

    def _member(self, x_ND: NDArray[np.float32]) -> Matrix:
        sim_NG = self.sharpness * (x_ND @ self.centre_GD.T - (self.centre_GD**2).sum(1) / 2).astype(float)
        share_NG = np.exp(sim_NG - sim_NG.max(1, keepdims=True))
        of_one_NG: Matrix = share_NG / share_NG.sum(1, keepdims=True)
        return of_one_NG

    def _features(self, x_ND: NDArray[np.float32], m: int) -> NDArray[Any]:
        expected_N1 = _logit(self._member(x_ND) @ self.aptitude_GM[:, m : m + 1])
        return np.hstack([expected_N1, x_ND]).astype(np.float32)

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`."""
        member_NG = self._member(x_ND)
        expected_NM = _logit(member_NG @ self.aptitude_GM)
        shared_N1 = (x_ND @ self.weight_F[1:] + self.bias)[:, None]
        mean_NM = sigmoid(expected_NM * self.weight_F[0] + shared_N1)
        return mean_NM, share_deviation(mean_NM, member_NG @ self.count_GM + self.prior)

    def add_model(self, name: str, probes: Records) -> None:
        """Takes the new model's aptitude test with the probes; the scorer stays as it is."""
        score_K = probe_scores(self, name, probes)
        group_K = self._member(self.encoder.encode(probes.prompts)).argmax(1)
        column_G1, count_G1 = group_means(group_K, score_K[:, None], len(self.centre_GD), self.prior)
        self.aptitude_GM = np.hstack([self.aptitude_GM, column_G1])
        self.count_GM = np.hstack([self.count_GM, count_G1])
        self.expense.add_model(probes.only([name]))
        self.models = (*self.models, name)


def _logit(share: Matrix) -> Matrix:
    share = share.clip(0.02, 0.98)
    return np.log(share / (1 - share))
