"""Dual contrastive learning: prompts near the models that answer them well, and near prompts of their own kind.

RouterDC: similarity s_m = cos(f(x), k_m). The sample-model loss pulls a prompt to each of its best models and away
from its worst ones; the sample-sample loss pulls it to one prompt of its cluster and away from a few of others. The
most similar model is chosen. A similarity is no probability, so one logistic curve that all models share turns it into
an expected score: the order of the models stays that of their similarities.

Source: Chen, Jiang, Lin, Kwok, Zhang, 2024, arXiv:2409.19886; positives, losses and decision as in the authors' code,
of which two things are another here: a prompt is not drawn as its own positive, and cells without a score are neither
positive nor negative.

Shape legend: N prompts, B of a batch, M models, D width of the encoder, W width of the common space, P good models,
Q bad ones, H prompts of other clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.encode.base import normalised
from roster.lm.estimate.base import Embedding
from roster.lm.estimate.descent import in_batches
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
        best, worst: how many models count as good for a prompt (those of a score of 0 do not) and as bad (those above
            0.5 do not).
        pull: weight of the sample-sample loss.
        clusters: kinds of prompts for it.
        temperature: of the similarities in the sample-model loss.
        epochs: over the training prompts, batches of 64.
        seed: of everything random.
        encoder, expense: parts.
    """

    fitted: ClassVar[tuple[str, ...]] = (*Embedding.fitted, "map_DW", "key_WM", "curve_1", "count_M")
    facts: ClassVar[tuple[str, ...]] = (*Embedding.facts, "bias")

    def __init__(
        self,
        width: int = 64,
        best: int = 3,
        worst: int = 3,
        pull: float = 1.0,
        clusters: int = 8,
        temperature: float = 1.0,
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

        kinds = KMeans(min(self.clusters, len(x_ND)), n_init=1, random_state=self.seed).fit_predict(x_ND)
        x, kind = torch.from_numpy(x_ND), torch.from_numpy(kinds.astype(np.int64))
        score = torch.from_numpy(records.score_NM.astype(np.float32))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            linear = nn.Linear(x.shape[1], self.width, bias=False)
            key_MW = nn.Parameter(torch.randn(len(self.models), self.width) * self.width**-0.5)

            def loss(at: Tensor) -> Tensor:
                row_BW = nn.functional.normalize(linear(x[at]), dim=1)
                sim_BM = row_BW @ nn.functional.normalize(key_MW, dim=1).T / self.temperature
                return to_models(sim_BM, score[at], self.best, self.worst) + self.pull * to_kin(row_BW, kind[at])

            parameters = [*linear.parameters(), key_MW]
            in_batches(parameters, loss, len(x), epochs=self.epochs, rate=3e-3, decay=0.05)
        self.map_DW = linear.weight.detach().numpy().T.copy()
        self.key_WM = normalised(key_MW.detach().numpy()).T.copy()
        sim_NM = self.similar(x_ND)
        curve_1, self.bias = fit_logistic(sim_NM.T.reshape(-1, 1), records.score_NM.T.reshape(-1), 1.0)
        self.curve_1 = np.maximum(curve_1, 1e-3)  # the more similar is never the worse
        self.count_M = np.isfinite(records.score_NM).sum(0)

    def similar(self, x_ND: NDArray[np.float32]) -> Matrix:
        """Cosine of every prompt with every model's key, [N, M]."""
        return np.asarray((normalised(x_ND @ self.map_DW) @ self.key_WM).astype(float))

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`."""
        mean_NM = sigmoid(self.similar(x_ND) * self.curve_1[0] + self.bias)
        return mean_NM, share_deviation(mean_NM, np.maximum(self.count_M / self.width, 1))


def to_models(sim_BM: Tensor, score_BM: Tensor, best: int, worst: int) -> Tensor:
    """The sample-model loss: for each of a prompt's best models, -log of its share against itself and the worst.

    Means over the batch, summed over the places from best to third best. A model of a score of 0 is no positive, one
    above 0.5 no negative; a score that is missing is neither.
    """
    import torch

    models, seen_BM = score_BM.shape[1], torch.isfinite(score_BM)
    high = score_BM.masked_fill(~seen_BM, -torch.inf).topk(min(best, models), dim=1)
    low = score_BM.masked_fill(~seen_BM, torch.inf).topk(min(worst, models), dim=1, largest=False)
    good_sim_BP = sim_BM.gather(1, high.indices)
    bad_sim_BQ = sim_BM.gather(1, low.indices).masked_fill(low.values > 0.5, -torch.inf)
    against_BPQ = torch.cat([good_sim_BP[:, :, None], bad_sim_BQ[:, None].expand(-1, good_sim_BP.shape[1], -1)], dim=2)
    loss_BP = against_BPQ.logsumexp(2) - good_sim_BP
    return (loss_BP * (high.values > 0)).mean(0).sum()


def to_kin(row_BW: Tensor, kind_B: Tensor, others: int = 3) -> Tensor:
    """The sample-sample loss: -log of the share of one prompt of the same cluster against a few of others.

    Which they are is drawn; cosines are taken as they are. A prompt without company, or whose cluster leaves too few
    others in the batch, is left out.
    """
    import torch

    sim_BB = row_BW @ row_BW.T
    same_BB = kind_B[:, None] == kind_B[None]
    kin_BB = same_BB & ~torch.eye(len(sim_BB), dtype=torch.bool)
    able_B = kin_BB.any(1) & ((~same_BB).sum(1) >= others)
    if not able_B.any():
        return sim_BB.new_zeros(())
    kin_B1 = torch.multinomial(kin_BB[able_B].float(), 1)
    other_BH = torch.multinomial((~same_BB[able_B]).float(), others)
    picked_BH = sim_BB[able_B].gather(1, torch.cat([kin_B1, other_BH], dim=1))
    return -picked_BH.log_softmax(1)[:, 0].mean()
