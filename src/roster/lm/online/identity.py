"""LLM Bandit: a contextual bandit over models that are described by identity vectors, conditioned on a preference.

A model's identity i is read off a few probe answers: its mean score and the slopes of a ridge regression of the probe
scores on the prompt's vector. The score is a linear function of two groups of features of prompt z = (1, x) and model:
the products i_r z_d, shared by all models, and z in a block of the model's own. A model added later has the shared part
from its first prompt on. One Bayesian regression (`roster.lm.online.belief`) learns both by Thompson sampling: for each
prompt a preference w (what one unit of cost is worth) is drawn, and the model with the largest draw(score) - w cost is
asked. The regression does not depend on w, so one policy serves every preference.

Shape legend: N prompts, M models, D width of the prompts' vectors, Z = D + 1, R width of an identity, G = R Z + M Z.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.encode import Encoder
from roster.lm.encode.base import normalised
from roster.lm.estimate.base import Embedding, Estimates, probe_scores
from roster.lm.estimate.expense import Expense
from roster.lm.online.belief import Belief
from roster.lm.records import Matrix, Records


class IdentityBandit(Embedding):
    """Fitting is a replay: of each training prompt it sees the score of one model, the one it chose.

    Args:
        width: D, the leading dimensions of the encoder that are used, scaled to length one.
        rank: R - 2, the leading dimensions whose slopes are part of an identity.
        probes: so many training prompts are answered by every model, for the identities.
        exploration: width of the draw.
        ridge: how strongly the identities' ridge regression and the prior of the belief hold.
        seed: of the order of the prompts, the preferences and the draws.
        encoder, expense: parts.
    """

    fitted = ("identity_MR", "inverse_GG", "target_G")
    facts = ("models", "first_models", "prior", "asked")

    def __init__(
        self,
        width: int = 16,
        rank: int = 6,
        probes: int = 50,
        exploration: float = 0.2,
        ridge: float = 1.0,
        seed: int = 0,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        super().__init__(encoder, expense)
        self.width, self.rank, self.probes = width, rank, probes
        self.exploration, self.ridge, self.seed = exploration, ridge, seed

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Identities from the probes, then one pass over the other prompts with partial feedback."""
        rng = np.random.default_rng(self.seed)
        order_N = rng.permutation(len(records))
        probe_K, rest_N = np.split(order_N, [min(self.probes, len(records) // 2)])
        z_NZ, score_NM = self._vectors(x_ND), records.score_NM
        self.prior = _level(score_NM[probe_K])
        self.identity_MR = np.stack([self._identity(z_NZ[probe_K], column) for column in score_NM[probe_K].T])
        self._keep(Belief(self._size(z_NZ.shape[1]), self.ridge, self.prior))
        for k in probe_K:
            for m in np.flatnonzero(np.isfinite(score_NM[k])).tolist():
                self._learn(z_NZ[k], m, float(score_NM[k, m]))
        cost_NM = np.nan_to_num(self.expense.estimate(records.prompts)[0])
        span = float(np.ptp(cost_NM.mean(0))) or 1.0
        self.asked = 0
        for n in rest_N:
            # From "quality alone" to "the dearest must be worth a whole score more", evenly in the logarithm.
            price = 10.0 ** rng.uniform(-3, 0) / span
            f_MG, belief = self._features(z_NZ[n]), self._belief()
            drawn_M = rng.normal(belief.mean(f_MG), self.exploration * belief.width(f_MG)) - price * cost_NM[n]
            # Logs have holes: what nobody recorded cannot be replayed.
            m = int(np.where(np.isfinite(score_NM[n]), drawn_M, -np.inf).argmax())
            if np.isfinite(score_NM[n, m]):
                self._learn(z_NZ[n], m, float(score_NM[n, m]))
                self.asked += 1

    def observe(self, prompt: str, model: str, score: float) -> None:
        """Learns from one answer.

        Raises:
            RosterError: the model is not known.
        """
        if model not in self.models:
            raise RosterError(f"the bandit does not know the model {model!r}")
        z_Z = self._vectors(self.encoder.encode([prompt]))[0]
        self._learn(z_Z, self.models.index(model), score)

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """(mean, standard deviation) of every model, those added later too."""
        belief = self._belief()
        f_NMG = [self._features(z_Z) for z_Z in self._vectors(x_ND)]
        mean_NM = np.stack([belief.mean(f_MG) for f_MG in f_NMG])
        return mean_NM, 0.5 * np.stack([belief.width(f_MG) for f_MG in f_NMG])

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """What is expected, from the text alone."""
        quality_NM, std_NM = self.quality(self.encoder.encode(prompts))
        return Estimates(self.models, quality_NM.clip(0, 1), std_NM, *self.expense.estimate(prompts))

    def add_model(self, name: str, probes: Records) -> None:
        """An identity from the probes, and a block of its own that has seen the probes."""
        score_K = probe_scores(self, name, probes)
        z_KZ = self._vectors(self.encoder.encode(probes.prompts))
        self.identity_MR = np.vstack([self.identity_MR, self._identity(z_KZ, score_K)])
        old, new = self._belief(), Belief(self._size(z_KZ.shape[1]), self.ridge, self.prior)
        size = len(old.target_D)
        new.inverse_DD[:size, :size], new.target_D[:size] = old.inverse_DD, old.target_D
        self._keep(new)
        self.models = (*self.models, name)
        for z_Z, score in zip(z_KZ, score_K, strict=True):
            if np.isfinite(score):
                self._learn(z_Z, len(self.models) - 1, float(score))
        self.expense.add_model(probes.only([name]))

    def _vectors(self, x_ND: NDArray[np.float32]) -> Matrix:
        x_ND = normalised(x_ND[:, : self.width]).astype(float)
        return np.hstack([np.ones((len(x_ND), 1)), x_ND])

    def _identity(self, z_KZ: Matrix, score_K: Matrix) -> Matrix:
        seen, z_KZ = np.isfinite(score_K), z_KZ[:, : self.rank + 1]
        belief = Belief(z_KZ.shape[1], self.ridge, self.prior)
        for z_Z, score in zip(z_KZ[seen], score_K[seen], strict=True):
            belief.observe(z_Z, float(score))
        return np.append(1.0, belief.inverse_DD @ belief.target_D)

    def _size(self, width: int) -> int:
        size: int = self.identity_MR.shape[1] * width + len(self.identity_MR) * width
        return size

    def _features(self, z_Z: Matrix) -> Matrix:
        """The features of every model for one prompt, [M, G]; the models' own blocks come last, so more can follow."""
        count = len(self.identity_MR)
        shared_MG = (self.identity_MR[:, :, None] * z_Z).reshape(count, -1)
        return np.hstack([shared_MG, np.kron(np.eye(count), z_Z)])

    def _learn(self, z_Z: Matrix, m: int, score: float) -> None:
        belief = self._belief()
        belief.observe(self._features(z_Z)[m], score)
        self._keep(belief)

    def _belief(self) -> Belief:
        belief = Belief(0, self.ridge, self.prior)
        belief.inverse_DD, belief.target_D = self.inverse_GG, self.target_G
        return belief

    def _keep(self, belief: Belief) -> None:
        self.inverse_GG, self.target_G = belief.inverse_DD, belief.target_D


def _level(score_KM: Matrix) -> float:
    return float(np.nanmean(score_KM)) if np.isfinite(score_KM).any() else 0.5
