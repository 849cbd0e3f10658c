"""Logistic regression on the vectors: one linear model per language model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.estimate.base import Embedding
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.table import share_deviation
from roster.lm.records import Matrix, Records


class Logistic(Embedding):
    """P(good answer) = sigmoid(w_m . x + b_m); a score between 0 and 1 counts as a share of a good answer.

    Args:
        strength: scikit-learn's C, the inverse of the penalty.
        encoder, expense: parts.
    """

    fitted = (*Embedding.fitted, "weight_DM", "bias_M", "count_M")

    def __init__(self, strength: float = 3.0, encoder: Encoder | None = None, expense: Expense | None = None):
        super().__init__(encoder, expense)
        self.strength = strength

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """One fit per model, on the prompts that have its score."""
        fits = [fit_logistic(x_ND, column, self.strength) for column in records.score_NM.T]
        self.weight_DM = np.stack([weight_D for weight_D, _ in fits], axis=1).astype(np.float32)
        self.bias_M = np.array([bias for _, bias in fits])
        self.count_M = np.isfinite(records.score_NM).sum(0)

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`; the deviation takes D parameters off the number of answers."""
        mean_NM = sigmoid((x_ND @ self.weight_DM).astype(float) + self.bias_M)
        return mean_NM, share_deviation(mean_NM, np.maximum(self.count_M / x_ND.shape[1], 1))


def fit_logistic(x_ND: NDArray[Any], score_N: Matrix, strength: float) -> tuple[NDArray[Any], float]:
    """(weights, bias) of one model; a constant where all scores are the same."""
    from sklearn.linear_model import LogisticRegression

    seen = np.isfinite(score_N)
    x, y = x_ND[seen], score_N[seen]
    if y.min() == y.max():
        share = (y.sum() + 0.5) / (len(y) + 1)
        return np.zeros(x.shape[1]), float(np.log(share / (1 - share)))
    if set(np.unique(y)) <= {0.0, 1.0}:
        model = LogisticRegression(C=strength, max_iter=500).fit(x, y)
    else:  # every prompt twice: good with weight y, bad with weight 1 - y
        labels = np.repeat([1, 0], len(y))
        model = LogisticRegression(C=strength, max_iter=500)
        model.fit(np.concatenate([x, x]), labels, sample_weight=np.concatenate([y, 1 - y]))
    return model.coef_[0], float(model.intercept_[0])


def sigmoid(z: Matrix) -> Matrix:
    """1 / (1 + exp(-z)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))
