"""A small neural network from vectors to the scores of all models at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.estimate.base import Embedding
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.logistic import sigmoid
from roster.lm.estimate.table import share_deviation
from roster.lm.records import Matrix, Records


class Perceptron(Embedding):
    """One hidden layer, binary cross-entropy with the score as target, missing cells left out.

    One prompt in seven is held out; the network is kept as it was after the epoch that foretold these best.

    Args:
        hidden: width of the hidden layer.
        epochs, rate, decay: of AdamW, with batches of 64.
        seed: of initialisation and order.
        encoder, expense: parts.
    """

    fitted = (*Embedding.fitted, "in_DH", "in_H", "out_HM", "out_M", "count_M")

    def __init__(
        self,
        hidden: int = 64,
        epochs: int = 15,
        rate: float = 3e-3,
        decay: float = 0.05,
        seed: int = 0,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.hidden, self.epochs, self.rate, self.decay, self.seed = hidden, epochs, rate, decay, seed

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Trains the network."""
        import torch
        from torch import nn

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            first, last = nn.Linear(x_ND.shape[1], self.hidden), nn.Linear(self.hidden, len(self.models))
            net = nn.Sequential(first, nn.ReLU(), nn.Dropout(0.2), last)
            x = torch.from_numpy(x_ND * np.sqrt(x_ND.shape[1], dtype=np.float32))
            seen = torch.from_numpy(np.isfinite(records.score_NM))
            target = torch.from_numpy(np.nan_to_num(records.score_NM).astype(np.float32))

            def loss(at: torch.Tensor) -> torch.Tensor:
                loss_BM = nn.functional.binary_cross_entropy_with_logits(net(x[at]), target[at], reduction="none")
                return (loss_BM * seen[at]).sum() / seen[at].sum().clamp_min(1)

            optimizer = torch.optim.AdamW(net.parameters(), lr=self.rate, weight_decay=self.decay)
            held, rest = torch.randperm(len(x)).tensor_split([len(x) // 7])
            best, kept = float("inf"), net.state_dict()
            for _ in range(self.epochs):
                net.train()
                for at in rest[torch.randperm(len(rest))].split(64):
                    optimizer.zero_grad()
                    loss(at).backward()
                    optimizer.step()
                net.eval()
                with torch.no_grad():
                    now = float(loss(held)) if len(held) else -1.0
                if now < best or not len(held):
                    best, kept = now, {name: value.clone() for name, value in net.state_dict().items()}
            net.load_state_dict(kept)
        self.in_DH = first.weight.detach().numpy().T.copy() * np.sqrt(x_ND.shape[1], dtype=np.float32)
        self.in_H, self.out_M = first.bias.detach().numpy(), last.bias.detach().numpy()
        self.out_HM = last.weight.detach().numpy().T.copy()
        self.count_M = np.isfinite(records.score_NM).sum(0)

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`."""
        hidden_NH = np.maximum(x_ND @ self.in_DH + self.in_H, 0)
        mean_NM = sigmoid((hidden_NH @ self.out_HM + self.out_M).astype(float))
        return mean_NM, share_deviation(mean_NM, np.maximum(self.count_M / self.hidden, 1))
