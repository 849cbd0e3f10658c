"""Rule: from estimates to a choice. It never sees the prompt.

Shape legend: N prompts, M models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.estimate.base import Estimates
from roster.lm.part import Part
from roster.lm.records import Matrix


class Rule(Part):
    """Chooses a model per prompt."""

    def utility(self, estimates: Estimates) -> Matrix:
        """What the rule maximises, [N, M]; ties go to the first model."""
        raise NotImplementedError

    def reason(self, estimates: Estimates, choice: int) -> str:
        """One clause for people about the choice for the first prompt."""
        raise NotImplementedError

    def sweep(self, estimates: Estimates) -> Sequence[Rule]:
        """The same rule at settings from frugal to generous, to draw its cost-quality curve."""
        raise NotImplementedError

    def settled(self, coin: float) -> Rule:
        """The rule that decides a prompt with this coin, uniform in [0, 1); itself unless it is a mix."""
        return self

    def choose(self, estimates: Estimates, allowed_M: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """The chosen model's column per prompt, [N].

        Raises:
            RosterError: no model is allowed.
        """
        utility_NM = self.utility(estimates)
        if allowed_M is not None:
            if not allowed_M.any():
                raise RosterError("every model is excluded")
            utility_NM = np.where(allowed_M, utility_NM, -np.inf)
        chosen_N: NDArray[np.int64] = utility_NM.argmax(1)
        return chosen_N


def needed(estimates: Estimates, what: str) -> Matrix:
    """The expected cost or delay; RosterError naming the models for which there is none."""
    matrix_NM = {"cost": estimates.cost_NM, "delay": estimates.delay_NM}[what]
    lacking = np.isnan(matrix_NM).any(0)
    if lacking.any():
        names = ", ".join(np.array(estimates.models)[lacking][:3])
        raise RosterError(f"the rule weighs {what}, but the records show no {what} for {names}")
    return matrix_NM
