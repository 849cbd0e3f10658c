"""Dual contrastive learning: prompts near the models that answer them well, and near prompts of their own kind.

RouterDC: similarity s_m = cos(f(x), k_m). The sample-model loss pulls a prompt to each of its best models and away
from its worst ones; the sample-sample loss pulls prompts of one cluster together. The similarity is no probability, so
a line per model, fitted on the training prompts, turns it into an expected score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.encode.base import normalised
from roster.lm.estimate.base import Embedding
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.logistic import fit_logistic, sigmoid
from roster.lm.estimate.table import share_deviation
from roster.lm.records import Matrix, Records

if TYPE_CHECKING:
    from torch import Tensor


class Contrastive(Embedding):
    """A linear map of the vectors and one key per model, trained with both losses.

    Args:
        width: of the common space.
        best, worst: how many models count as good (they must have a score above 0.5) and bad (below 0.5) for a prompt.
        pull: weight of the sample-sample loss.
        clusters: kinds of prompts for it.
        temperature: of the similarities.
        epochs: over the training prompts, batches of 64.
        seed: of everything random.
        encoder, expense: parts.
    """

    fitted = (*Embedding.fitted, "map_DW", "key_WM", "slope_MM", "bias_M", "count_M")

    def __init__(
        self,
        width: int = 64,
        best: int = 3,
        worst: int = 3,
        pull: float = 1.0,
        clusters: int = 8,
        temperature: float = 0.2,
        epochs: int = 10,
        seed: int = 0,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.width, self.best, self.worst, self.pull = width, best, worst, pull
        self.clusters, self.temperature, self.epochs, self.seed = clusters, temperature, epochs, seed

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Trains map and keys, then fits each model's expected score on the similarities."""
        import torch
        from sklearn.cluster import KMeans
        from torch import nn

        torch.manual_seed(self.seed)
        kinds = KMeans(min(self.clusters, len(x_ND)), n_init=1, random_state=self.seed).fit_predict(x_ND)
        x, kind = torch.from_numpy(x_ND), torch.from_numpy(kinds.astype(np.int64))
        score = torch.from_numpy(np.where(np.isfinite(records.score_NM), records.score_NM, 0.5).astype(np.float32))
        linear = nn.Linear(x.shape[1], self.width, bias=False)
        key_MW = nn.Parameter(torch.randn(len(self.models), self.width) * self.width**-0.5)
        optimizer = torch.optim.AdamW([*linear.parameters(), key_MW], lr=3e-3, weight_decay=0.05)
        for _ in range(self.epochs):
            for at in torch.randperm(len(x)).split(64):
                row_BW = nn.functional.normalize(linear(x[at]), dim=1)
                sim_BM = row_BW @ nn.functional.normalize(key_MW, dim=1).T / self.temperature
                loss = self._to_models(sim_BM, score[at]) + self.pull * self._to_kin(row_BW, kind[at])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.map_DW = linear.weight.detach().numpy().T.copy()
        self.key_WM = normalised(key_MW.detach().numpy()).T.copy()
        sim_NM = self._similar(x_ND)
        # Each model's score from all similarities: a prompt near a good model's key is an easy one for others too.
        fits = [fit_logistic(sim_NM, column, 1.0) for column in records.score_NM.T]
        self.slope_MM = np.stack([slope for slope, _ in fits], axis=1)
        self.bias_M = np.array([bias for _, bias in fits])
        self.count_M = np.isfinite(records.score_NM).sum(0)

    def _to_models(self, sim_BM: Tensor, score_BM: Tensor) -> Tensor:
        """For every good model of a prompt: -log of its share against itself and the bad models."""
        import torch

        models = score_BM.shape[1]
        high = score_BM.topk(min(self.best, models), dim=1)
        low = (-score_BM).topk(min(self.worst, models), dim=1)
        good_BP = high.values > 0.5
        bad_BN = -low.values < 0.5
        bad_sim_BN = sim_BM.gather(1, low.indices).masked_fill(~bad_BN, -torch.inf)
        good_sim_BP = sim_BM.gather(1, high.indices)
        against_BPN = torch.cat([good_sim_BP[:, :, None], bad_sim_BN[:, None].expand(-1, good_BP.shape[1], -1)], dim=2)
        loss_BP = against_BPN.logsumexp(2) - good_sim_BP
        return (loss_BP * good_BP).sum() / good_BP.sum().clamp_min(1)

    def _to_kin(self, row_BW: Tensor, kind_B: Tensor) -> Tensor:
        """For every prompt: -log of its kin's share among the other prompts of the batch."""
        import torch

        sim_BB = row_BW @ row_BW.T / self.temperature
        itself = torch.eye(len(sim_BB), dtype=torch.bool)
        sim_BB = sim_BB.masked_fill(itself, -torch.inf)
        kin_BB = (kind_B[:, None] == kind_B[None]) & ~itself
        has_kin_B = kin_BB.any(1)
        if not has_kin_B.any():
            return sim_BB.new_zeros(())
        log_share_BB = sim_BB - sim_BB.logsumexp(1, keepdim=True)
        mean_B = log_share_BB.masked_fill(~kin_BB, 0).sum(1) / kin_BB.sum(1).clamp_min(1)
        return -mean_B[has_kin_B].mean()

    def _similar(self, x_ND: NDArray[np.float32]) -> Matrix:
        return (normalised(x_ND @ self.map_DW) @ self.key_WM).astype(float) / self.temperature

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`."""
        mean_NM = sigmoid(self._similar(x_ND) @ self.slope_MM + self.bias_M)
        return mean_NM, share_deviation(mean_NM, np.maximum(self.count_M / self.width, 1))
