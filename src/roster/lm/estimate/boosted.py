"""Gradient-boosted trees on the leading dimensions of the vectors, one ensemble per language model.

Fitted by scikit-learn, then kept as plain arrays (feature, threshold, children, value of every node), so that a saved
policy needs no pickle. The tests hold the arrays' predictions against scikit-learn's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.estimate.base import Embedding
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.table import share_deviation
from roster.lm.records import Matrix, Records


class Boosted(Embedding):
    """Squared loss, shallow trees.

    Args:
        trees, depth, rate: of the ensemble.
        dimensions: how many leading dimensions of the vectors the trees see.
        seed: of the subsampling.
        encoder, expense: parts.
    """

    fitted = (*Embedding.fitted, "feature_MTV", "threshold_MTV", "child_MTV2", "value_MTV", "start_M", "count_M")

    def __init__(
        self,
        trees: int = 60,
        depth: int = 3,
        rate: float = 0.1,
        dimensions: int = 32,
        seed: int = 0,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.trees, self.depth, self.rate, self.dimensions, self.seed = trees, depth, rate, dimensions, seed

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """One ensemble per model, on the prompts that have its score."""
        from sklearn.ensemble import GradientBoostingRegressor

        nodes = 2 ** (self.depth + 1) - 1
        models = len(records.models)
        self.feature_MTV = np.full((models, self.trees, nodes), -1, dtype=np.int32)
        self.threshold_MTV = np.zeros((models, self.trees, nodes), dtype=np.float64)
        self.child_MTV2 = np.zeros((models, self.trees, nodes, 2), dtype=np.int32)
        self.value_MTV = np.zeros((models, self.trees, nodes), dtype=np.float64)
        self.start_M = np.zeros(models)
        for m, column in enumerate(records.score_NM.T):
            seen = np.isfinite(column)
            fitted = GradientBoostingRegressor(
                n_estimators=self.trees,
                max_depth=self.depth,
                learning_rate=self.rate,
                subsample=0.5,
                max_features=0.5,
                random_state=self.seed,
            ).fit(x_ND[seen, : self.dimensions], column[seen])
            self.start_M[m] = float(np.ravel(fitted.init_.constant_)[0])
            for t, regressor in enumerate(fitted.estimators_[:, 0]):
                self._keep(m, t, regressor.tree_)
        self.count_M = np.isfinite(records.score_NM).sum(0)

    def _keep(self, m: int, t: int, tree: Any) -> None:
        count = tree.node_count
        leaf = tree.children_left < 0
        own = np.arange(count)  # a leaf is its own child, so that every prompt can walk `depth` steps
        self.feature_MTV[m, t, :count] = np.where(leaf, 0, tree.feature)
        self.threshold_MTV[m, t, :count] = tree.threshold
        self.child_MTV2[m, t, :count, 0] = np.where(leaf, own, tree.children_left)
        self.child_MTV2[m, t, :count, 1] = np.where(leaf, own, tree.children_right)
        self.value_MTV[m, t, :count] = tree.value[:, 0, 0]

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`; the deviation is that of a leaf's share of the answers."""
        models, trees, _ = self.feature_MTV.shape
        m_M1, t_1T = np.arange(models)[:, None], np.arange(trees)[None, :]
        mean_NM = np.empty((len(x_ND), models))
        for n, x_D in enumerate(x_ND):
            node_MT = np.zeros((models, trees), dtype=np.int32)
            for _ in range(self.depth):
                right_MT = x_D[self.feature_MTV[m_M1, t_1T, node_MT]] > self.threshold_MTV[m_M1, t_1T, node_MT]
                node_MT = self.child_MTV2[m_M1, t_1T, node_MT, right_MT.astype(int)]
            mean_NM[n] = self.start_M + self.rate * self.value_MTV[m_M1, t_1T, node_MT].sum(1)
        mean_NM = mean_NM.clip(0, 1)
        return mean_NM, share_deviation(mean_NM, np.maximum(self.count_M / 2**self.depth, 1))
