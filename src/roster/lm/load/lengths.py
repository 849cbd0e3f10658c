"""Lengths: how long an answer will be, guessed from the prompt.

Equation: length = sum_b p(b | prompt) mean_b, with b a bucket of lengths, p a logistic regression.
Buckets are quantiles of the training answers, so that every bucket has as many.

Shape legend: N prompts, D width of the encoder and one more for the prompt's own length, B buckets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.encode import Encoder, TfIdf
from roster.lm.part import Part
from roster.lm.prices import tokens
from roster.lm.records import Matrix


class LengthPredictor(Part):
    """Fit on prompts and the lengths of their answers, then asked for expected lengths.

    Args:
        buckets: B; fewer where the lengths have fewer quantiles.
        strength: of the logistic regression's fit; more follows the training data closer.
        encoder: of the prompts.
    """

    fitted = ("edge_B", "mean_B", "weight_DB", "level_B", "scale_2")

    def __init__(self, buckets: int = 5, strength: float = 3.0, encoder: Encoder | None = None):
        self.buckets, self.strength, self.encoder = buckets, strength, encoder or TfIdf(dimensions=64)

    def fit(self, prompts: Sequence[str], length_N: Matrix) -> LengthPredictor:
        """Learns from answers of `length_N` tokens.

        Raises:
            RosterError: no prompts, or lengths that do not match or all fall into one bucket.
        """
        from sklearn.linear_model import LogisticRegression

        if not len(prompts) or len(prompts) != len(length_N):
            raise RosterError(f"{len(prompts)} prompts with {len(length_N)} lengths: one length per prompt is needed")
        # With an edge equal to the greatest length, the last bucket would be empty.
        edges = np.unique(np.quantile(length_N, np.arange(1, self.buckets) / self.buckets))
        self.edge_B = edges[(edges > np.min(length_N)) & (edges <= np.max(length_N))]
        bucket_N = self.bucket(length_N)
        if len(np.unique(bucket_N)) < 2:
            raise RosterError("all answers have the same length: there is nothing to learn")
        self.mean_B = np.array([np.mean(length_N[bucket_N == b]) for b in np.unique(bucket_N)])
        log_N = _log_lengths(prompts)
        self.scale_2 = np.array([log_N.mean(), max(float(log_N.std()), 1e-9)])
        self.encoder.fit(prompts)
        fit = LogisticRegression(C=self.strength, max_iter=500).fit(self._features(prompts), bucket_N)
        # Of two classes scikit-learn keeps one column; the other one is zero.
        two = len(fit.classes_) == 2
        self.weight_DB = np.vstack([0 * fit.coef_, fit.coef_]).T if two else fit.coef_.T
        self.level_B = np.append(0.0, fit.intercept_) if two else fit.intercept_
        return self

    def bucket(self, length_N: Matrix) -> NDArray[np.int64]:
        """The bucket of each length."""
        return np.searchsorted(self.edge_B, length_N, side="right")

    def chances(self, prompts: Sequence[str]) -> Matrix:
        """The probability [N, B] of every bucket."""
        logit_NB = self._features(prompts) @ self.weight_DB + self.level_B
        share_NB = np.exp(logit_NB - logit_NB.max(1, keepdims=True))
        chance_NB: Matrix = share_NB / share_NB.sum(1, keepdims=True)
        return chance_NB

    def predict(self, prompts: Sequence[str]) -> Matrix:
        """The expected length [N] in tokens."""
        length_N: Matrix = self.chances(prompts) @ self.mean_B
        return length_N

    def _features(self, prompts: Sequence[str]) -> Matrix:
        log_N = (_log_lengths(prompts) - self.scale_2[0]) / self.scale_2[1]
        return np.hstack([self.encoder.encode(prompts).astype(float), log_N[:, None]])


def _log_lengths(prompts: Sequence[str]) -> Matrix:
    return np.log1p([tokens(prompt) for prompt in prompts])
