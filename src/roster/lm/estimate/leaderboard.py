"""A leaderboard for every prompt: a linear head gives each model a rating on it, trained on who beat whom.

The "grounded Rao-Kupper" loss, which knows four outcomes. With strengths s = exp(rating) and t = exp(eta(x)) + 1,
P(i wins) = s_i / (s_i + t s_j + 1), P(both are bad) = 1 / (1 + s_i + s_j), and the rest is a tie of good answers.
The 1 is the strength of a bad answer: a rating above 0 means better than that, so ratings say more than an order.

Source: Frick, Chen, Tennyson, Li, Chiang, Angelopoulos, Stoica, 2025, "Prompt-to-Leaderboard", arXiv:2502.14855; the
loss as in the authors' code ("bag"). There a language model with a new token is fine-tuned on votes of people; here the
head stands on a frozen encoder, and votes are made from the records' scores: of two answers to a prompt the better one
wins, equal ones tie, as good ones from 0.5 on. A logistic curve that all models share turns ratings into scores.

Shape legend: N prompts, M models, D width of the encoder, P pairs of models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.estimate.base import Embedding, column_means
from roster.lm.estimate.descent import minimise
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.logistic import fit_logistic, sigmoid
from roster.lm.estimate.table import share_deviation
from roster.lm.records import Matrix, Records

if TYPE_CHECKING:
    import torch

MARGIN = 1e-6
"""Added to exp(eta) + 1, so that a tie always has some chance."""


class Leaderboard(Embedding):
    """Prompt-to-leaderboard on a frozen encoder.

    Args:
        ridge: penalty on the head's weights, in units of pairs.
        rounds: of L-BFGS, at most.
        encoder, expense: parts.
    """

    fitted: ClassVar[tuple[str, ...]] = (*Embedding.fitted, "head_DM", "head_M", "tie_D", "curve_1", "count_M")
    facts: ClassVar[tuple[str, ...]] = (*Embedding.facts, "tie", "bias")

    def __init__(
        self, ridge: float = 3.0, rounds: int = 100, encoder: Encoder | None = None, expense: Expense | None = None
    ):
        super().__init__(encoder, expense)
        self.ridge, self.rounds = ridge, rounds

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Trains the head on all pairs of recorded answers."""
        import torch

        D, M = x_ND.shape[1], len(records.models)
        mean_M = column_means(records.score_NM).clip(0.02, 0.98)
        x = torch.from_numpy(x_ND.astype(np.float64))
        head_DM = torch.zeros(D, M, dtype=torch.float64, requires_grad=True)
        head_M = torch.tensor(np.log(mean_M / (1 - mean_M)), requires_grad=True)
        tie_D = torch.zeros(D, dtype=torch.float64, requires_grad=True)
        tie = torch.zeros((), dtype=torch.float64, requires_grad=True)
        first_P, second_P = np.triu_indices(M, k=1)
        outcome_NP = torch.from_numpy(outcomes(records.score_NM, first_P, second_P))
        pairs = max(int((outcome_NP >= 0).sum()), 1)

        def loss() -> torch.Tensor:
            chance_NP4 = chances(x @ head_DM + head_M, x @ tie_D + tie, first_P, second_P)
            picked_NP = chance_NP4.gather(2, outcome_NP.clamp_min(0)[:, :, None])[:, :, 0]
            missed_NP = -torch.log(picked_NP.clamp_min(1e-6)) * (outcome_NP >= 0)
            return (missed_NP.sum() + self.ridge * ((head_DM**2).sum() + (tie_D**2).sum()) / 2) / pairs

        if M > 1:
            minimise([head_DM, head_M, tie_D, tie], loss, self.rounds)
        self.head_DM, self.head_M = head_DM.detach().numpy(), head_M.detach().numpy()
        self.tie_D, self.tie = tie_D.detach().numpy(), float(tie.detach())
        rating_NM = self.ratings(x_ND)
        self.curve_1, self.bias = fit_logistic(rating_NM.T.reshape(-1, 1), records.score_NM.T.reshape(-1), 1.0)
        self.count_M = np.isfinite(records.score_NM).sum(0)

    def ratings(self, x_ND: NDArray[np.float32]) -> Matrix:
        """Each prompt's leaderboard, [N, M]."""
        return np.asarray(x_ND.astype(float) @ self.head_DM + self.head_M)

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`."""
        mean_NM = sigmoid(self.ratings(x_ND) * self.curve_1[0] + self.bias)
        return mean_NM, share_deviation(mean_NM, np.maximum(self.count_M / 100, 1))


def outcomes(score_NM: Matrix, first_P: NDArray[np.int64], second_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each pair: 0 the first won, 1 the second, 2 a tie of good answers, 3 of bad ones, -1 a score is missing."""
    one_NP, two_NP = score_NM[:, first_P], score_NM[:, second_P]
    found_NP = np.where(one_NP >= 0.5, 2, 3)
    found_NP = np.where(one_NP > two_NP, 0, np.where(one_NP < two_NP, 1, found_NP))
    return np.where(np.isnan(one_NP) | np.isnan(two_NP), -1, found_NP)


def chances(
    rating_NM: torch.Tensor, eta_N: torch.Tensor, first_P: NDArray[np.int64], second_P: NDArray[np.int64]
) -> torch.Tensor:
    """Probability of each outcome of each pair, [N, P, 4]."""
    import torch

    strength_NM = torch.exp(rating_NM.clamp(-15, 15))
    one_NP, two_NP = strength_NM[:, first_P], strength_NM[:, second_P]
    theta_N1 = torch.exp(eta_N.clamp(-15, 15))[:, None] + 1 + MARGIN
    first_NP = one_NP / (one_NP + theta_N1 * two_NP + 1)
    other_NP = two_NP / (two_NP + theta_N1 * one_NP + 1)
    bad_NP = 1 / (1 + one_NP + two_NP)
    return torch.stack([first_NP, other_NP, 1 - first_NP - other_NP - bad_NP, bad_NP], dim=2)
