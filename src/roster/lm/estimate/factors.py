"""Matrix factorisation: every prompt and every model is a short vector, the score is their product.

score_nm ~ sigmoid(p_n . q_m + b_m). The prompt's factors are fitted to the recorded answers; those of a prompt that
nobody has answered are read off its text by ridge regression (as RouteLLM's matrix-factorisation router reads them off
an embedding: Ong et al., 2024, arXiv:2406.18665). A model added later is fitted to its probes on the *recorded* factors
of the same prompts where there are any: answers of other models say far more about a question than its words do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder
from roster.lm.estimate.base import Embedding, column_means, probe_scores
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.logistic import fit_logistic, sigmoid
from roster.lm.estimate.table import share_deviation
from roster.lm.records import Matrix, Records
from roster.lm.splits import same


class Factors(Embedding):
    """Truncated SVD of the centred scores, then one logistic regression per model on the prompts' factors.

    Args:
        rank: length of the vectors; at most M - 1 are used.
        ridge: penalty of the regression from text to factors.
        strength: inverse penalty of a model's vector.
        encoder, expense: parts.
    """

    fitted = (*Embedding.fitted, "text_DR", "middle_R", "factor_NR", "weight_RM", "bias_M", "count_M")
    facts = (*Embedding.facts, "asked")

    def __init__(
        self,
        rank: int = 5,
        ridge: float = 5.0,
        strength: float = 1.0,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.rank, self.ridge, self.strength = rank, ridge, strength

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Factors of the prompts, the map from text to factors, and the models' vectors."""
        self.asked = tuple(map(same, records.prompts))
        self.factor_NR = prompt_factors(records.score_NM, self.rank)
        self.middle_R = self.factor_NR.mean(0)
        gram_DD = x_ND.T @ x_ND + self.ridge * np.eye(x_ND.shape[1], dtype=np.float32)
        self.text_DR = np.linalg.solve(gram_DD, x_ND.T @ (self.factor_NR - self.middle_R))
        guess_NR = self._from_text(x_ND)
        # Vectors for unseen prompts are fitted on guessed factors: those are what they will meet.
        fits = [fit_logistic(guess_NR, column, self.strength) for column in records.score_NM.T]
        self.weight_RM = np.stack([weight_R for weight_R, _ in fits], axis=1)
        self.bias_M = np.array([bias for _, bias in fits])
        self.count_M = np.isfinite(records.score_NM).sum(0)

    def _from_text(self, x_ND: NDArray[np.float32]) -> Matrix:
        factor_NR: Matrix = self.middle_R + x_ND @ self.text_DR
        return factor_NR

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """See `Embedding.quality`."""
        mean_NM = sigmoid(self._from_text(x_ND) @ self.weight_RM + self.bias_M)
        return mean_NM, share_deviation(mean_NM, np.maximum(self.count_M / self.rank / 10, 1))

    def recorded(self, name: str, probes: Records, prompts: Sequence[str]) -> Matrix:
        """Quality expected of a model that is known by probes only, on prompts that the *other* models answered.

        Args:
            name: the model.
            probes: its answers; prompts that were not in training are ignored.
            prompts: prompts of the training records.

        Returns:
            [N] probabilities.

        Raises:
            KeyError: a prompt that was not in training.
        """
        score_K = probe_scores(self, name, probes)
        at = {asked: n for n, asked in enumerate(self.asked)}
        known = [k for k, prompt in enumerate(probes.prompts) if same(prompt) in at]
        factor_KR = self.factor_NR[[at[same(probes.prompts[k])] for k in known]]
        weight_R, bias = fit_logistic(factor_KR, score_K[known], self.strength)
        return sigmoid(self.factor_NR[[at[same(prompt)] for prompt in prompts]] @ weight_R + bias)


def prompt_factors(score_NM: Matrix, rank: int, rounds: int = 10) -> Matrix:
    """Leading principal components of the scores, scaled so that the first has variance 1; missing cells are filled in
    turn by what the components say of them (hard-impute)."""
    seen_NM = np.isfinite(score_NM)
    mean_M = column_means(score_NM)
    filled_NM = np.where(seen_NM, score_NM, mean_M)
    rank = min(rank, len(mean_M) - 1 if len(mean_M) > 1 else 1, len(score_NM))
    for _ in range(1 if seen_NM.all() else rounds):
        left_NR, size_R, right_RM = np.linalg.svd(filled_NM - mean_M, full_matrices=False)
        part_NM = (left_NR[:, :rank] * size_R[:rank]) @ right_RM[:rank] + mean_M
        filled_NM = np.where(seen_NM, score_NM, part_NM.clip(0, 1))
    scale = max(float(size_R[0]), 1e-12)
    factor_NR: Matrix = left_NR[:, :rank] * size_R[:rank] / scale * np.sqrt(len(score_NM))
    return factor_NR
