"""Domains: a classifier says which kind of prompt it is, a table how good every model is at that kind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.estimate.base import Embedding
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.table import group_means, share_deviation
from roster.lm.records import Matrix, Records


class Domains(Embedding):
    """Multinomial logistic regression onto the data sets of the training prompts, and their mean scores.

    Args:
        soft: weigh the table's rows by the classifier's probabilities, instead of reading the likeliest row.
        strength: scikit-learn's C of the classifier.
        encoder, expense: parts.
    """

    fitted = (*Embedding.fitted, "weight_DG", "bias_G", "mean_GM", "std_GM")
    facts = (*Embedding.facts, "groups")

    def __init__(
        self,
        soft: bool = False,
        strength: float = 10.0,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.soft, self.strength = soft, strength

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Learns to tell the data sets apart; with one only, there is nothing to tell."""
        from sklearn.linear_model import LogisticRegression

        self.groups = tuple(sorted(set(records.datasets)))
        group_N = np.array([self.groups.index(name) for name in records.datasets])
        self.mean_GM, count_GM = group_means(group_N, records.score_NM, len(self.groups))
        self.std_GM = share_deviation(self.mean_GM, count_GM)
        self.weight_DG = np.zeros((x_ND.shape[1], len(self.groups)), dtype=np.float32)
        self.bias_G = np.zeros(len(self.groups))
        if len(self.groups) > 1:
            model = LogisticRegression(C=self.strength, max_iter=500).fit(x_ND, group_N)
            two = len(self.groups) == 2  # then scikit-learn keeps the second group's side only
            self.weight_DG[:] = np.vstack([-model.coef_, model.coef_]).T / 2 if two else model.coef_.T
            self.bias_G[:] = np.concatenate([-model.intercept_, model.intercept_]) / 2 if two else model.intercept_

    def domain(self, x_ND: NDArray[np.float32]) -> Matrix:
        """Probability of each domain, [N, G]."""
        logit_NG = (x_ND @ self.weight_DG).astype(float) + self.bias_G
        share_NG = np.exp(logit_NG - logit_NG.max(1, keepdims=True))
        of_one_NG: Matrix = share_NG / share_NG.sum(1, keepdims=True)
        return of_one_NG

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`."""
        share_NG = self.domain(x_ND)
        if self.soft:
            return share_NG @ self.mean_GM, share_NG @ self.std_GM
        group_N = share_NG.argmax(1)
        return self.mean_GM[group_N], self.std_GM[group_N]
