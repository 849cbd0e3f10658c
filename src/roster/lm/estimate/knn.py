"""k nearest neighbours: a model will do on a prompt as it did on the most similar ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.estimate.base import Embedding, Estimates, column_means
from roster.lm.estimate.expense import Expense
from roster.lm.records import Matrix, Records


class KNN(Embedding):
    """Mean score of the k nearest training prompts by cosine, drawn to the model's overall mean by `prior` votes.

    Args:
        neighbours: k.
        prior: how many neighbours' votes the overall mean counts for.
        costs_too: whether cost is the neighbours' mean as well, instead of a line over the prompt's length.
        encoder, expense: parts.
    """

    fitted: ClassVar[tuple[str, ...]] = (*Embedding.fitted, "x_ND", "score_NM", "cost_NM", "mean_M")

    cost_NM: Matrix | None = None

    def __init__(
        self,
        neighbours: int = 40,
        prior: float = 2.0,
        costs_too: bool = False,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.neighbours, self.prior, self.costs_too = neighbours, prior, costs_too
        self._turn_N: Matrix | None = None

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Remembers the training prompts."""
        self.x_ND, self.score_NM = x_ND, records.score_NM
        self.cost_NM = records.cost_NM if self.costs_too else None
        self.mean_M = column_means(records.score_NM)

    def nearest(self, x_ND: NDArray[np.float32]) -> NDArray[np.int64]:
        """The positions of the k nearest training prompts, [N, k], in no particular order."""
        count = len(self.x_ND)
        if self._turn_N is None or len(self._turn_N) != count:
            self._turn_N = np.arange(count) / (2 * count)
        far_NN = (x_ND @ self.x_ND.T).astype(float)
        # Equally near ones (to five digits) in their order: rounding in the last bits, which batches change, must not
        # choose.
        far_NN *= -1e5
        np.rint(far_NN, out=far_NN)
        far_NN += self._turn_N
        k = min(self.neighbours, count)
        return np.argpartition(far_NN, k - 1, axis=1)[:, :k]

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`; the deviation is that of a share of so many votes."""
        score_NkM = self.score_NM[self.nearest(x_ND)]
        seen_NkM = np.isfinite(score_NkM)
        votes_NM = seen_NkM.sum(1) + self.prior
        mean_NM = (np.where(seen_NkM, score_NkM, 0).sum(1) + self.prior * self.mean_M) / np.maximum(votes_NM, 1e-9)
        spread_NM = np.sqrt((mean_NM * (1 - mean_NM)).clip(0.01) / np.maximum(votes_NM, 1))
        return mean_NM, spread_NM

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """See `Embedding.estimate`; with `costs_too`, costs come from the neighbours where they have any."""
        found = super().estimate(prompts, datasets)
        if self.cost_NM is None:
            return found
        near_NkM = self.cost_NM[self.nearest(self.encoder.encode(prompts))]
        seen_NkM = np.isfinite(near_NkM)
        count_NM = seen_NkM.sum(1)
        mean_NM = np.where(seen_NkM, near_NkM, 0).sum(1) / np.maximum(count_NM, 1)
        cost_NM = found.cost_NM.copy()
        first = mean_NM.shape[1]  # models added later have no neighbours' costs
        cost_NM[:, :first] = np.where(count_NM > 0, mean_NM, cost_NM[:, :first])
        return replace(found, cost_NM=cost_NM)
