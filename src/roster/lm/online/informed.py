"""Informed Thompson sampling: a bandit's prior is first updated with what somebody more or less competent chose.

An expert of competence b who knew the arms' means t would choose arm a with chance softmax(b t)_a. With the choices
a_1..a_J of such an expert and the learner's own gains, the posterior is

    p(t | all) ~ p(t | gains) prod_j softmax(b t)_{a_j}

where p(t | gains) is normal and independent per arm. A draw from it is had by drawing S candidates from the normal part
and choosing one of them with chances proportional to the likelihood of the expert's choices (sampling importance
resampling, exact as S grows). At b = 0 the likelihood is flat and this is plain Thompson sampling.

Source: Hao, Jain, Lattimore, Van Roy, Wen, 2023, arXiv:2302.03319. Shape legend: M arms, S candidates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError, nearest
from roster.lm.records import Matrix


class InformedThompson:
    """A `Learner` that does not look at the prompt.

    Args:
        models: the arms' names.
        demonstrations: the names that the expert chose, in any order.
        competence: b, as believed by the learner.
        prior: (mean, standard deviation) of an arm's mean gain before anything was seen.
        noise: standard deviation of a gain around its arm's mean.
        candidates: S.
        seed: of the draws.

    Raises:
        RosterError: a demonstration of an unknown arm, a negative competence, or deviations that are not above 0.
    """

    def __init__(
        self,
        models: tuple[str, ...],
        demonstrations: tuple[str, ...] = (),
        competence: float = 10.0,
        prior: tuple[float, float] = (0.5, 0.2),
        noise: float = 0.5,
        candidates: int = 200,
        seed: int = 0,
    ):
        if competence < 0 or min(prior[1], noise) <= 0:
            raise RosterError("a competence is at least 0, deviations are above 0")
        for name in demonstrations:
            if name not in models:
                raise RosterError(f"the demonstrations choose {name!r}: {nearest(name, models)}")
        self.models, self.competence, self.candidates = models, competence, candidates
        self.chosen_M = np.array([demonstrations.count(name) for name in models], dtype=float)
        self._rng = np.random.default_rng(seed)
        self._noise = noise**-2
        self.precision_M = np.full(len(models), prior[1] ** -2)
        self.weighted_M = self.precision_M * prior[0]

    def choose(self, x_D: NDArray[Any] | None = None) -> int:
        """The best arm of one draw from the posterior."""
        return int(self.draw().argmax())

    def learn(self, x_D: NDArray[Any] | None, arm: int, gain: float) -> None:
        """Updates the arm's normal belief."""
        self.precision_M[arm] += self._noise
        self.weighted_M[arm] += self._noise * gain

    def draw(self) -> Matrix:
        """Mean gains [M] drawn from the posterior."""
        shape = (self.candidates if self.competence and self.chosen_M.any() else 1, len(self.models))
        mean_SM = self._rng.normal(self.weighted_M / self.precision_M, self.precision_M**-0.5, shape)
        drawn_NM: Matrix = mean_SM[self._pick(mean_SM)]
        return drawn_NM

    def _pick(self, mean_SM: Matrix) -> int:
        if len(mean_SM) == 1:
            return 0
        logit_SM = self.competence * mean_SM
        top_S = logit_SM.max(1)
        total_S = top_S + np.log(np.exp(logit_SM - top_S[:, None]).sum(1))
        likelihood_S = logit_SM @ self.chosen_M - self.chosen_M.sum() * total_S
        # The largest of log-weight plus Gumbel noise falls on each candidate with its chance.
        return int((likelihood_S + self._rng.gumbel(size=len(likelihood_S))).argmax())
