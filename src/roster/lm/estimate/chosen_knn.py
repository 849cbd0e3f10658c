"""k nearest neighbours with k chosen by cross-validation, one for quality and one for cost, as CARROT's code does.

Of k = 2, 4, 8, ..., 512, quality takes the k with the largest area under the ROC curve, averaged over models and five
folds; cost the k with the largest coefficient of determination. Neighbours have one vote each.

Source: Somerstep, Polo, de Oliveira, Mangal, Silva, Bhardwaj, Yurochkin, Maity, 2025, "CARROT: A Cost Aware Rate
Optimal Router", arXiv:2502.03261, and its code. There folds are cut in the order of the file, which in a log sorted by
task leaves out whole tasks; here they are drawn. There a score is a class; here a share between 0 and 1 counts as good
from 0.5 on for the choice of k, and as it is for the estimate. A k beyond half of what a fold learns from is not tried.

Shape legend: N prompts, M models, K tried values of k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.lm.calibration import auroc
from roster.lm.encode import Encoder
from roster.lm.estimate.base import Estimates
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.knn import KNN
from roster.lm.records import Matrix, Records

FOLDS = 5
TRIED = (2, 4, 8, 16, 32, 64, 128, 256, 512)


class ChosenKNN(KNN):
    """`KNN` whose k is found in `fit`; costs come from neighbours too.

    Args:
        seed: of the folds.
        encoder, expense: parts.
    """

    facts: ClassVar[tuple[str, ...]] = (*KNN.facts, "neighbours", "cost_neighbours")

    def __init__(self, seed: int = 0, encoder: Encoder | None = None, expense: Expense | None = None):
        super().__init__(neighbours=TRIED[-1], prior=1e-6, costs_too=True, encoder=encoder, expense=expense)
        self.seed, self.cost_neighbours = seed, TRIED[-1]

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Remembers the training prompts, and finds both k."""
        super().fit_quality(x_ND, records)
        good_NM = np.where(np.isfinite(records.score_NM), records.score_NM >= 0.5, np.nan)
        self.neighbours = cross_validated(x_ND, good_NM, auroc, self.seed)
        if np.isfinite(records.cost_NM).any():
            self.cost_neighbours = cross_validated(x_ND, records.cost_NM, determination, self.seed)

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """See `KNN.estimate`: quality from as many neighbours as tell it best, cost likewise."""
        quality_neighbours = self.neighbours
        found = super().estimate(prompts, datasets)
        if self.cost_neighbours == quality_neighbours:
            return found
        try:
            self.neighbours = self.cost_neighbours
            return replace(found, cost_NM=super().estimate(prompts, datasets).cost_NM)
        finally:
            self.neighbours = quality_neighbours


def cross_validated(
    x_ND: NDArray[np.float32], value_NM: Matrix, judge: Callable[[Matrix, Matrix], float | None], seed: int = 0
) -> int:
    """The k whose neighbours' means foretell best, by `judge(expected, true)` averaged over models and folds.

    Args:
        x_ND: rows of length 1.
        value_NM: what is foretold; NaN where it is not known.
        judge: larger is better; None or NaN where it cannot say.
        seed: of the folds.
    """
    from sklearn.model_selection import KFold

    count = len(x_ND)
    if count < FOLDS:
        return TRIED[0]
    tried = [k for k in TRIED if k <= max(count * (FOLDS - 1) // FOLDS // 2, TRIED[0])]
    total_K = np.zeros(len(tried))
    for learn, apart in KFold(FOLDS, shuffle=True, random_state=seed).split(x_ND):
        most = min(tried[-1], len(learn))
        order = (-(x_ND[apart] @ x_ND[learn].T)).argsort(1, kind="stable")[:, :most]
        near_NkM = value_NM[learn][order]
        seen_NkM = np.isfinite(near_NkM)
        sum_NkM, votes_NkM = np.where(seen_NkM, near_NkM, 0).cumsum(1), seen_NkM.cumsum(1)
        for place, k in enumerate(tried):
            at = min(k, most) - 1
            mean_NM = sum_NkM[:, at] / np.maximum(votes_NkM[:, at], 1)
            total_K[place] += _mean_over_models(mean_NM, value_NM[apart], judge)
    best: int = tried[int(total_K.argmax())]
    return best


def _mean_over_models(expected_NM: Matrix, true_NM: Matrix, judge: Callable[[Matrix, Matrix], float | None]) -> float:
    found = []
    for expected_N, true_N in zip(expected_NM.T, true_NM.T, strict=True):
        seen_N = np.isfinite(true_N)
        value = judge(expected_N[seen_N], true_N[seen_N]) if seen_N.any() else None
        if value is not None and np.isfinite(value):
            found.append(value)
    return float(np.mean(found)) if found else 0.0


def determination(expected_N: Matrix, true_N: Matrix) -> float | None:
    """R squared; None where the truth does not vary."""
    spread = float(((true_N - true_N.mean()) ** 2).sum())
    return 1 - float(((true_N - expected_N) ** 2).sum()) / spread if spread > 0 else None
