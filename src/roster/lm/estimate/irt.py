"""Item response theory: models have abilities, prompts have difficulty and demand abilities in some proportion.

The multidimensional two-parameter logistic model, P(good) = sigmoid(a_n . theta_m - b_n), with the item's parameters
read off its text: a(x) = softplus(x A + a0), b(x) = x B + b0. So a prompt that nobody has answered has them too.

Sources: Birnbaum, 1968, in Lord and Novick, "Statistical Theories of Mental Test Scores" (the two-parameter model);
Song, Huang, Cheng, Gao, Xu, Zhao, Wang, Wu, 2025, "IRT-Router: Effective and Interpretable Multi-LLM Routing via Item
Response Theory", arXiv:2506.01048 (item parameters from the prompt's vector). Their warm-up by similar prompts for
cold starts is left out; abilities are free parameters with a normal prior instead of maps of a model's description.

Shape legend: N prompts, M models, D width of the encoder, K abilities.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.estimate.base import Embedding, column_means
from roster.lm.estimate.descent import minimise
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.logistic import sigmoid
from roster.lm.estimate.table import share_deviation
from roster.lm.records import Matrix, Records


class IRT(Embedding):
    """Maximum a posteriori by L-BFGS: normal priors on abilities and on the maps from text.

    Args:
        abilities: K.
        ridge: precision of the prior on the maps, in units of answers.
        rounds: of L-BFGS, at most.
        seed: of the initial values.
        encoder, expense: parts.
    """

    fitted: ClassVar[tuple[str, ...]] = (*Embedding.fitted, "demand_DK", "demand_K", "hard_D", "ability_KM", "count_M")
    facts: ClassVar[tuple[str, ...]] = (*Embedding.facts, "hard")

    def __init__(
        self,
        abilities: int = 4,
        ridge: float = 3.0,
        rounds: int = 150,
        seed: int = 0,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.abilities, self.ridge, self.rounds, self.seed = abilities, ridge, rounds, seed

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Fits abilities and maps together on every answer that has a score."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits, softplus

        rng = np.random.default_rng(self.seed)
        D, M, K = x_ND.shape[1], len(records.models), self.abilities
        mean_M = column_means(records.score_NM).clip(0.02, 0.98)
        level_M = np.log(mean_M / (1 - mean_M))
        ability_KM = (level_M - level_M.mean()) / K + 0.1 * rng.normal(size=(K, M))

        def leaf(value: Matrix) -> torch.Tensor:
            return torch.tensor(value, dtype=torch.float64, requires_grad=True)

        ability, hard = leaf(ability_KM), leaf(np.array(-level_M.mean()))
        demand_DK, demand_K, hard_D = leaf(0.1 * rng.normal(size=(D, K))), leaf(np.full(K, 0.5)), leaf(np.zeros(D))
        x = torch.from_numpy(x_ND.astype(np.float64))
        seen = torch.from_numpy(np.isfinite(records.score_NM))
        score = torch.from_numpy(np.nan_to_num(records.score_NM))

        def loss() -> torch.Tensor:
            logit_NM = softplus(x @ demand_DK + demand_K) @ ability - (x @ hard_D + hard)[:, None]
            missed = binary_cross_entropy_with_logits(logit_NM[seen], score[seen], reduction="sum")
            prior = (ability**2).sum() + self.ridge * ((demand_DK**2).sum() + (hard_D**2).sum())
            return (missed + prior / 2) / len(x)

        minimise([ability, hard, demand_DK, demand_K, hard_D], loss, self.rounds)
        self.ability_KM, self.hard = ability.detach().numpy(), float(hard.detach())
        self.demand_DK, self.demand_K = demand_DK.detach().numpy(), demand_K.detach().numpy()
        self.hard_D = hard_D.detach().numpy()
        self.count_M = np.isfinite(records.score_NM).sum(0)

    def items(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """(what each prompt demands of every ability [N, K], its difficulty [N])."""
        x_ND = x_ND.astype(float)
        return np.logaddexp(0, x_ND @ self.demand_DK + self.demand_K), x_ND @ self.hard_D + self.hard

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`; the deviation takes K + 1 parameters off the number of answers."""
        demand_NK, hard_N = self.items(x_ND)
        mean_NM = sigmoid(demand_NK @ self.ability_KM - hard_N[:, None])
        return mean_NM, share_deviation(mean_NM, np.maximum(self.count_M / (self.abilities + 1) / 10, 1))


def log_likelihood(score_NM: Matrix, demand_NK: Matrix, hard_N: Matrix, ability_KM: Matrix) -> float:
    """Of all answers with a score, in nats; a share between 0 and 1 counts as so much of a good answer."""
    logit_NM = demand_NK @ ability_KM - hard_N[:, None]
    each_NM = score_NM * logit_NM - np.logaddexp(0, logit_NM)
    return float(np.nansum(each_NM))
