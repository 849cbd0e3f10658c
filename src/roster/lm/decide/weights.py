"""Weights: quality minus what cost and delay are worth. The dial that every cost-quality curve turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from roster.errors import RosterError
from roster.lm.decide.base import Rule, needed
from roster.lm.estimate.base import Estimates
from roster.lm.records import Matrix

_STEPS, _SAME = 40, 1e-9
"""Stops of the dial, and how near prices are that differ by rounding alone."""
_ROWS = 2000
"""Prompts that are enough to place the stops of the dial."""


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
        """From "the cheapest" to "the best", between the prices where choices change.

        A pair of models changes places at the price (difference in worth) / (difference in cost). The dial stops midway
        between quantiles of these prices, so that it reaches the cheapest model whatever the dearest costs; a scale
        made of the range of costs would not. At such a price itself two models are worth the same, and what is chosen
        would hang on rounding, or on the next prompt that is learned from.
        """
        cost_NM = needed(estimates, "cost")
        worth_NM = Weights(0.0, self.delay, self.caution).utility(estimates)
        rows = np.unique(np.linspace(0, len(cost_NM) - 1, min(len(cost_NM), _ROWS)).astype(int))
        change = _break_even(worth_NM[rows], cost_NM[rows], range(cost_NM.shape[1]))
        if not len(change):
            return [Weights(0.0, self.delay, self.caution)]
        cheapest_N1 = cost_NM.argmin(1)[:, None]
        last = _break_even(
            np.hstack([np.take_along_axis(worth_NM, cheapest_N1, 1), worth_NM]),
            np.hstack([np.take_along_axis(cost_NM, cheapest_N1, 1), cost_NM]),
            (0,),
        )
        # Ten times the last change, so that the cheapest is reached on prompts too that are a little different.
        most = 10 * max(last.max(initial=0.0), change.max())
        edges = np.unique(np.quantile(change, np.linspace(1, 0, _STEPS)))[::-1]
        apart = np.flatnonzero(edges[1:] < edges[:-1] * (1 - _SAME))
        between = (edges[apart + 1] + edges[apart]) / 2
        return [Weights(float(price), self.delay, self.caution) for price in (most, *between, 0.0)]


def _break_even(worth_NM: Matrix, cost_NM: Matrix, against: Iterable[int]) -> Matrix:
    """The prices above zero at which any model of a prompt is worth as much as one of `against`, flat."""
    found = []
    for m in against:
        dearer_NM, better_NM = cost_NM - cost_NM[:, m : m + 1], worth_NM - worth_NM[:, m : m + 1]
        at = (dearer_NM > 0) & (better_NM > 0)
        found.append(better_NM[at] / dearer_NM[at])
    prices = np.concatenate(found)
    return prices[np.isfinite(prices)]
