"""Models as vectors: a prompt's projected vector, times a model's own, elementwise, into one linear classifier.

logit(good) = w . (p_m * (x W + c)) + b, with noise on x while training.

Source: Zhuang, Wu, Wen, Li, Jiao, Ramchandran, 2024, "EmbedLLM: Learning Compact Representations of Large Language
Models", arXiv:2410.02223. Compared with the authors' code: there the classifier has two outputs, whose difference is
the one logit here; batches are of single answers with a rate of 1e-4 over 4 million of them, here of prompts with all
their models' answers, and the rate fits the thousands that a team has.

Shape legend: N prompts, M models, D width of the encoder, W width of the models' vectors.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.estimate.base import Embedding
from roster.lm.estimate.descent import in_batches
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.logistic import sigmoid
from roster.lm.estimate.table import share_deviation
from roster.lm.records import Matrix, Records


class ModelVectors(Embedding):
    """EmbedLLM's factorisation of model and prompt.

    Args:
        width: of the models' vectors.
        noise: deviation of what is added to a prompt's vector in training, whose length is 1.
        epochs, rate, decay: of AdamW, with batches of 64 prompts.
        seed: of initial values, order and noise.
        encoder, expense: parts.
    """

    fitted: ClassVar[tuple[str, ...]] = (*Embedding.fitted, "map_DM", "bias_M", "vector_MW", "count_M")

    def __init__(
        self,
        width: int = 64,
        noise: float = 0.05,
        epochs: int = 20,
        rate: float = 3e-3,
        decay: float = 0.05,
        seed: int = 0,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.width, self.noise, self.epochs, self.rate, self.decay = width, noise, epochs, rate, decay
        self.seed = seed

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Trains projection, vectors and classifier; what deciding needs of them is one matrix."""
        import torch
        from torch import nn

        x = torch.from_numpy(x_ND)
        seen = torch.from_numpy(np.isfinite(records.score_NM))
        score = torch.from_numpy(np.nan_to_num(records.score_NM).astype(np.float32))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            project = nn.Linear(x.shape[1], self.width)
            vectors = nn.Embedding(len(records.models), self.width)
            classify = nn.Linear(self.width, 1)

            def loss(at: torch.Tensor) -> torch.Tensor:
                noisy = x[at] + self.noise * torch.randn(len(at), x.shape[1])
                # w . (p * q) = (w * p) . q, for all models in one product
                logit_BM = project(noisy) @ (vectors.weight * classify.weight).T + classify.bias
                loss_BM = nn.functional.binary_cross_entropy_with_logits(logit_BM, score[at], reduction="none")
                return (loss_BM * seen[at]).sum() / seen[at].sum().clamp_min(1)

            parameters = [*project.parameters(), *vectors.parameters(), *classify.parameters()]
            in_batches(parameters, loss, len(x), epochs=self.epochs, rate=self.rate, decay=self.decay)
        with torch.no_grad():
            weighed_MW = vectors.weight * classify.weight
            self.map_DM = (project.weight.T @ weighed_MW.T).numpy()
            self.bias_M = (weighed_MW @ project.bias + classify.bias).numpy().astype(float)
            self.vector_MW = vectors.weight.numpy().copy()
        self.count_M = np.isfinite(records.score_NM).sum(0)

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`."""
        mean_NM = sigmoid((x_ND @ self.map_DM).astype(float) + self.bias_M)
        return mean_NM, share_deviation(mean_NM, np.maximum(self.count_M / self.width, 1))
