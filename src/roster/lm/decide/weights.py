"""Weights: quality minus what cost and delay are worth. The dial that every cost-quality curve turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roster.errors import RosterError
from roster.lm.decide.base import Rule, needed
from roster.lm.estimate.base import Estimates
from roster.lm.records import Matrix

_STEPS = 40


class Weights(Rule):
    """Largest quality - cost x price - delay x seconds + caution.

    Args:
        cost: quality that one unit of the currency is worth.
        delay: quality that one second is worth.
        caution: standard deviations taken off each quality; negative values explore.
    """

    def __init__(self, cost: float = 0.0, delay: float = 0.0, caution: float = 0.0):
        if min(cost, delay) < 0:
            raise RosterError(f"weights of cost and delay must be at least 0, not {cost} and {delay}")
        self.cost, self.delay, self.caution = cost, delay, caution

    def utility(self, estimates: Estimates) -> Matrix:
        """See `Rule.utility`."""
        utility_NM = estimates.quality_NM - self.caution * estimates.std_NM
        if self.cost:
            utility_NM = utility_NM - self.cost * needed(estimates, "cost")
        if self.delay:
            utility_NM = utility_NM - self.delay * needed(estimates, "delay")
        return utility_NM

    def reason(self, estimates: Estimates, choice: int) -> str:
        """See `Rule.reason`."""
        weighed = [name for name in ("cost", "delay") if getattr(self, name)]
        return "best quality" if not weighed else "best quality less " + " and ".join(weighed)

    def sweep(self, estimates: Estimates) -> Sequence[Weights]:
        """From "the cheapest" to "the best", in even steps of log price."""
        cost_NM = needed(estimates, "cost")
        span = float(np.ptp(cost_NM.mean(0))) or float(cost_NM.mean()) or 1.0
        prices = np.concatenate([np.geomspace(1e3, 1e-4, _STEPS) / span, [0.0]])
        return [Weights(float(price), self.delay, self.caution) for price in prices]
