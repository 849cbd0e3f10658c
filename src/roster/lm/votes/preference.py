"""Bradley-Terry per prompt: how likely each model's answer is to be preferred, given the prompt.

With x the prompt's vector and a strength s_m(x) = t_m + w_m . x of every model,

    P(a is preferred to b) = sigmoid(s_a(x) - s_b(x)),

a logistic regression, without intercept, on differences: the row of a vote is (e_a - e_b) and (e_a - e_b) times x. A
tie is half a win each way. `ridge` shrinks the strengths t, `context` the weights w: with an infinite one the prompt
does not matter, and what is left is one ranking for all prompts, the context-free Bradley-Terry model.

Sources: Bradley, Terry, 1952, "Rank Analysis of Incomplete Block Designs"; conditioned on the prompt as in Frick et
al., 2025, "Prompt-to-Leaderboard", arXiv:2502.14855, which regresses the strengths with a language model; here they
are linear in an encoder's vectors.

Shape legend: V votes, N prompts, M models, D width of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.encode import Encoder, TfIdf
from roster.lm.estimate.base import Estimates, Estimator
from roster.lm.estimate.logistic import sigmoid
from roster.lm.records import Matrix, Records, unknown
from roster.lm.votes.ballots import Votes


class Preference(Estimator):
    """Quality is the expected share of wins against a model drawn from the others; costs are not known from votes.

    Args:
        ridge: penalty of the overall strengths, a sum of squares times half of it.
        context: penalty of what the prompt adds; infinite for one ranking for all prompts.
        encoder: of the prompts.
    """

    fitted: ClassVar[tuple[str, ...]] = ("strength_M", "weight_DM")
    facts: ClassVar[tuple[str, ...]] = ("models",)

    def __init__(self, ridge: float = 0.01, context: float = 3.0, encoder: Encoder | None = None):
        if not (ridge > 0 and context > 0):
            raise RosterError(f"the penalties must be above 0, not {ridge} and {context}")
        self.ridge, self.context = ridge, context
        self.encoder = encoder or TfIdf(dimensions=64)
        self.weight_DM: Matrix | None = None

    def fit(self, records: Records) -> Preference:
        """Records have scores and no votes."""
        raise RosterError(f"records {records.name!r} have scores; preferences are learned from votes: `fit_votes`")

    def fit_votes(self, votes: Votes) -> Preference:
        """Learns from all votes given; returns itself.

        Raises:
            RosterError: there are none, or a model takes part in none.
        """
        taking_part = np.unique(votes.pair_V2)
        for m, model in enumerate(votes.models):
            if m not in taking_part:
                raise RosterError(f"votes {votes.name!r}: there is none about {model!r} to learn from")
        self.models = votes.models
        if math.isinf(self.context):
            x_VD = np.zeros((len(votes), 0), dtype=np.float32)
        else:
            x_VD = self.encoder.fit(votes.prompts).encode(votes.prompts)
        strength_M, weight_DM = fit_strengths(votes, x_VD, self.ridge, self.context)
        self.strength_M, self.weight_DM = strength_M, weight_DM if weight_DM.size else None
        return self

    def strengths(self, prompts: Sequence[str]) -> Matrix:
        """The logarithms of the models' strengths, [N, M]."""
        if self.weight_DM is None:
            return np.tile(self.strength_M, (len(prompts), 1))
        return np.asarray(self.strength_M + self.encoder.encode(prompts) @ self.weight_DM)

    def preferred(self, prompts: Sequence[str], pair_V2: NDArray[np.int64]) -> Matrix:
        """The chance that the first model of each pair is preferred, [V]; one prompt per pair."""
        at_V = np.arange(len(pair_V2))
        strength_VM = self.strengths(prompts)
        return sigmoid(strength_VM[at_V, pair_V2[:, 0]] - strength_VM[at_V, pair_V2[:, 1]])

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """Shares of wins, from the text alone."""
        strength_NM = self.strengths(prompts)
        beats_NMM = sigmoid(strength_NM[:, :, None] - strength_NM[:, None])
        others = max(len(self.models) - 1, 1)
        quality_NM = (beats_NMM.sum(2) - 0.5) / others if len(self.models) > 1 else np.full(strength_NM.shape, 0.5)
        nothing_NM = unknown(*strength_NM.shape)
        return Estimates(self.models, quality_NM, np.zeros_like(quality_NM), nothing_NM, nothing_NM)


def fit_strengths(votes: Votes, x_VD: NDArray[np.float32], ridge: float, context: float) -> tuple[Matrix, Matrix]:
    """(strengths [M], weights [D, M]) by penalised maximum likelihood.

    Args:
        votes: V votes.
        x_VD: the vectors of their prompts; without columns, the prompt does not matter.
        ridge, context: see `Preference`.
    """
    from scipy import sparse  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression

    V, M, D = len(votes), len(votes.models), x_VD.shape[1]
    # One penalty for all columns: those of the context are scaled so that it weighs as much as theirs should.
    wide_VF = np.hstack([np.ones((V, 1)), x_VD * math.sqrt(ridge / context)]) if D else np.ones((V, 1))
    row_R = np.repeat(np.arange(V), 2 * (D + 1))
    column_VAF = votes.pair_V2[:, :, None] * (D + 1) + np.arange(D + 1)
    value_VAF = np.array([1.0, -1.0])[:, None] * wide_VF[:, None, :]
    x_VC = sparse.csr_matrix((value_VAF.ravel(), (row_R, column_VAF.ravel())), shape=(V, M * (D + 1)))
    # A vote counts as won with its share and as lost with the rest, so that a tie is half of both.
    share_V = votes.share_V
    weight = np.concatenate([share_V, 1 - share_V])
    taken = weight > 0
    model = LogisticRegression(C=1 / ridge, fit_intercept=False, max_iter=5000, tol=1e-8)
    label = np.repeat([1, 0], V)
    x_2VC = sparse.vstack([x_VC, x_VC]).tocsr()
    if len(set(label[taken].tolist())) < 2:  # whoever stands first always wins: turn half of the votes around
        x_2VC, label = sparse.vstack([x_2VC, -x_2VC]).tocsr(), np.concatenate([label, 1 - label])
        weight = np.tile(weight / 2, 2)
        taken = weight > 0
    model.fit(x_2VC[taken], label[taken], sample_weight=weight[taken])
    found_MF = model.coef_[0].reshape(M, D + 1)
    scale = math.sqrt(ridge / context) if D else 1.0
    return found_MF[:, 0] - found_MF[:, 0].mean(), np.ascontiguousarray(found_MF[:, 1:].T * scale)
