"""Limits: the best within a budget or a deadline, the cheapest above a floor of quality.

Where no model keeps the limit, the rule says so in its reason and comes as near as it can.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roster.errors import RosterError
from roster.lm.decide.base import Rule, needed
from roster.lm.decide.weights import Weights
from roster.lm.estimate.base import Estimates
from roster.lm.records import Matrix

_STEPS = 40
_FAR = 1e6
"""Puts whatever breaks the limit behind everything that keeps it."""


class Budget(Rule):
    """The best model whose call costs at most so much; the cheapest one when none does.

    Args:
        per_call: in the records' currency.
    """

    def __init__(self, per_call: float):
        _at_least_zero("a budget", per_call)
        self.per_call = per_call

    def utility(self, estimates: Estimates) -> Matrix:
        """See `Rule.utility`."""
        cost_NM = needed(estimates, "cost")
        return np.where(cost_NM <= self.per_call, estimates.quality_NM, -_FAR - _rank(cost_NM))

    def reason(self, estimates: Estimates, choice: int) -> str:
        """See `Rule.reason`."""
        if estimates.cost_NM[0, choice] <= self.per_call:
            return f"best within {self.per_call:g} per call"
        return f"cheapest; none costs at most {self.per_call:g}"

    def sweep(self, estimates: Estimates) -> Sequence[Budget]:
        """At the quantiles of all expected costs."""
        cost_NM = needed(estimates, "cost")
        return [Budget(float(c)) for c in np.unique(np.quantile(cost_NM, np.linspace(0, 1, _STEPS)))]


class Floor(Rule):
    """The cheapest model of at least so much quality; the best one when none reaches it.

    Args:
        quality: in the units of the scores.
    """

    def __init__(self, quality: float):
        if not 0 <= quality <= 1:
            raise RosterError(f"a quality floor lies between 0 and 1, not at {quality}")
        self.quality = quality

    def utility(self, estimates: Estimates) -> Matrix:
        """See `Rule.utility`."""
        above_NM = estimates.quality_NM >= self.quality
        return np.where(above_NM, -_rank(needed(estimates, "cost")), -_FAR + estimates.quality_NM)

    def reason(self, estimates: Estimates, choice: int) -> str:
        """See `Rule.reason`."""
        if estimates.quality_NM[0, choice] >= self.quality:
            return f"cheapest above quality {self.quality:.2f}"
        return f"best; none reaches quality {self.quality:.2f}"

    def sweep(self, estimates: Estimates) -> Sequence[Floor]:
        """At the quantiles of all expected qualities."""
        return [Floor(float(q)) for q in np.unique(np.quantile(estimates.quality_NM, np.linspace(0, 1, _STEPS)))]


class Deadline(Rule):
    """The best model, less what its cost is worth, that answers in so many seconds; the fastest when none does.

    Args:
        seconds: until the answer must be complete.
        cost: quality that one unit of the currency is worth.
    """

    def __init__(self, seconds: float, cost: float = 0.0):
        _at_least_zero("a deadline", seconds)
        _at_least_zero("the weight of cost", cost)
        self.seconds, self.cost = seconds, cost

    def utility(self, estimates: Estimates) -> Matrix:
        """See `Rule.utility`."""
        delay_NM = needed(estimates, "delay")
        worth_NM = estimates.quality_NM - (self.cost * needed(estimates, "cost") if self.cost else 0)
        return np.where(delay_NM <= self.seconds, worth_NM, -_FAR - _rank(delay_NM))

    def reason(self, estimates: Estimates, choice: int) -> str:
        """See `Rule.reason`."""
        if estimates.delay_NM[0, choice] <= self.seconds:
            return f"best within {self.seconds:g} s"
        return f"fastest; none answers within {self.seconds:g} s"

    def sweep(self, estimates: Estimates) -> Sequence[Deadline]:
        """At prices from "the cheapest" to "the best", all with the same deadline."""
        return [Deadline(self.seconds, each.cost) for each in Weights().sweep(estimates)]


def _rank(value_NM: Matrix) -> Matrix:
    """Each model's place by value within its row: a scale on which currencies and seconds do not matter."""
    return value_NM.argsort(1, kind="stable").argsort(1, kind="stable").astype(float)


def _at_least_zero(what: str, value: float) -> None:
    if not value >= 0:
        raise RosterError(f"{what} must be at least 0, not {value}")
