"""Cascades: ask one model, look at how sure its answer is, and ask another when that is worth its price.

`Cascade` follows a fixed order with a threshold, or several. `SelfChecked` follows an order of two, by steps of the
confidence that need not be the lowest. `Replan` decides anew after every answer. All need a confidence in [0, 1] of
each answer: its log-probability, a learned judge, agreement of samples. All models that were asked are paid, and so is
finding out how sure an answer is, wherever it is looked at; the answer that ends a cascade is kept.

Shape legend: N prompts, M models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError, nearest
from roster.lm.decide.base import Rule, needed
from roster.lm.decide.weights import Weights
from roster.lm.estimate.base import Estimates
from roster.lm.records import Matrix

_STEPS = 40


class CascadeRule(Rule):
    """What both cascades can: say below which confidence another model is asked, and be played on records."""

    def next_below(self, estimates: Estimates, asked: Sequence[int], choice: int) -> float | None:
        """The confidence of `choice`'s answer below which another model is asked; None when none is left.

        Args:
            estimates: of one prompt.
            asked: columns of the models asked before.
            choice: column of the one that is asked now.
        """
        raise NotImplementedError

    def play(
        self, estimates: Estimates, confidence_NM: Matrix, cost_NM: Matrix, check_NM: Matrix | None = None
    ) -> tuple[NDArray[np.int64], Matrix]:
        """What the rule would have done where every answer's confidence was recorded.

        Args:
            estimates: of N prompts.
            confidence_NM: in [0, 1], of every model's answer.
            cost_NM: of every model's call.
            check_NM: what it costs to find out how sure an answer is; by default nothing.

        Returns:
            the model whose answer is kept [N], and what all calls cost together [N].
        """
        kept_N = np.empty(len(confidence_NM), dtype=int)
        paid_N = np.zeros(len(confidence_NM))
        for n in range(len(confidence_NM)):
            one = estimates.rows(np.array([n]))
            asked: list[int] = []
            while True:
                allowed_M = ~np.isin(np.arange(len(estimates.models)), asked)
                choice = int(self.choose(one, allowed_M)[0])
                paid_N[n] += cost_NM[n, choice]
                below = self.next_below(one, asked, choice)
                asked.append(choice)
                if below is not None and check_NM is not None:
                    paid_N[n] += check_NM[n, choice]
                if below is None or confidence_NM[n, choice] >= below:
                    break
            kept_N[n] = choice
        return kept_N, paid_N


class InTurn(CascadeRule):
    """Models in a fixed order, until an answer is sure enough or nobody is left.

    Args:
        order: names, the first is asked first.
    """

    def __init__(self, order: Sequence[str]):
        if not order:
            raise RosterError("a cascade needs at least one model")
        self.order = tuple(order)

    def asks_on(self, place: int, confidence_N: Matrix) -> NDArray[np.bool_]:
        """Whether the next model is asked after an answer of the model at this place of the order, [N]."""
        raise NotImplementedError

    def utility(self, estimates: Estimates) -> Matrix:
        """Earlier in the order is better; models outside it come last."""
        self._columns(estimates)
        place_M = [self.order.index(m) if m in self.order else len(self.order) for m in estimates.models]
        return np.tile(-np.array(place_M, dtype=float), (len(estimates.quality_NM), 1))

    def reason(self, estimates: Estimates, choice: int) -> str:
        """See `Rule.reason`."""
        name = estimates.models[choice]
        if name not in self.order:
            return f"nobody of the cascade's {len(self.order)} is left"
        return f"step {self.order.index(name) + 1} of a cascade of {len(self.order)}"

    def play(
        self, estimates: Estimates, confidence_NM: Matrix, cost_NM: Matrix, check_NM: Matrix | None = None
    ) -> tuple[NDArray[np.int64], Matrix]:
        """See `CascadeRule.play`."""
        kept_N, paid_N = np.empty(len(confidence_NM), dtype=int), np.zeros(len(confidence_NM))
        open_N = np.ones(len(confidence_NM), dtype=bool)
        for place, m in enumerate(self._columns(estimates)):
            kept_N[open_N] = m
            paid_N[open_N] += cost_NM[open_N, m]
            if place == len(self.order) - 1:
                break
            if check_NM is not None:
                paid_N[open_N] += check_NM[open_N, m]
            open_N &= self.asks_on(place, confidence_NM[:, m])
        return kept_N, paid_N

    def _columns(self, estimates: Estimates) -> list[int]:
        for name in self.order:
            if name not in estimates.models:
                raise RosterError(f"the cascade asks {name!r}, which is not there: {nearest(name, estimates.models)}")
        return [estimates.models.index(name) for name in self.order]


class Cascade(InTurn):
    """Models in a fixed order; the first answer that is sure enough is kept.

    Args:
        order: names, the first is asked first.
        threshold: confidence from which an answer is kept; one for all models, or one for each but the last.
    """

    def __init__(self, order: Sequence[str], threshold: float | Sequence[float] = 0.5):
        super().__init__(order)
        self.threshold = threshold if isinstance(threshold, float | int) else tuple(threshold)
        each = self.thresholds
        if len(each) != len(self.order) - 1:
            raise RosterError(
                f"a cascade of {len(self.order)} models has {len(self.order) - 1} thresholds, not {len(each)}"
            )
        if wrong := [
            t for t in (*each, *([threshold] if isinstance(threshold, float | int) else [])) if not 0 <= t <= 1
        ]:
            raise RosterError(f"a cascade's threshold lies between 0 and 1, not at {wrong[0]}")

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One for every model but the last."""
        if isinstance(self.threshold, float | int):
            return (self.threshold,) * (len(self.order) - 1)
        return self.threshold

    def asks_on(self, place: int, confidence_N: Matrix) -> NDArray[np.bool_]:
        """See `InTurn.asks_on`."""
        return np.asarray(confidence_N < self.thresholds[place])

    def next_below(self, estimates: Estimates, asked: Sequence[int], choice: int) -> float | None:
        """See `CascadeRule.next_below`."""
        tried = {estimates.models[m] for m in (*asked, choice)}
        name = estimates.models[choice]
        if not set(self.order) - tried or name not in self.order:
            return None
        # Where models are left out, the last of the order may be asked before another; then any answer is kept.
        place = self.order.index(name)
        return self.thresholds[place] if place < len(self.thresholds) else 0.0

    def sweep(self, estimates: Estimates) -> Sequence[Cascade]:
        """At every threshold, the same for all models, from "never ask again" to "always"."""
        return [Cascade(self.order, float(t)) for t in np.linspace(0, 1, _STEPS)]


class Replan(CascadeRule):
    """After every answer: is the improvement that another model promises worth its price?

    The promise of model m over a kept answer of confidence c is the expected improvement
    E[max(Q_m - c, 0)] with Q_m normal around its estimate; it is asked when the promise exceeds price x cost.

    Source: Dekoninck, Baader, Vechev, 2024, "A Unified Approach to Routing and Cascading for LLMs", arXiv:2410.10347,
    where all continuations are compared at every step. Here it is one step ahead, in closed form, which also gives
    the threshold on confidence that a caller can apply without asking again.

    Args:
        cost: quality that one unit of the currency is worth.
        spread: standard deviation of a model's quality on one prompt, on top of the estimate's own.
    """

    def __init__(self, cost: float = 0.0, spread: float = 0.3):
        if cost < 0 or spread <= 0:
            raise RosterError(f"cost must be at least 0 and spread above 0, not {cost} and {spread}")
        self.cost, self.spread = cost, spread

    def utility(self, estimates: Estimates) -> Matrix:
        """Quality less price, plus what a second answer promises once this one is there."""
        own_NM = estimates.quality_NM - self.cost * needed(estimates, "cost")
        later_NM = np.zeros_like(own_NM)
        for m in range(own_NM.shape[1]):
            gain_NM = self._gain(estimates, estimates.quality_NM[:, m : m + 1])
            gain_NM[:, m] = 0
            later_NM[:, m] = gain_NM.max(1).clip(0)
        return own_NM + later_NM

    def _gain(self, estimates: Estimates, kept_N1: Matrix) -> Matrix:
        sigma_NM = np.sqrt(estimates.std_NM**2 + self.spread**2)
        z_NM = (estimates.quality_NM - kept_N1) / sigma_NM
        density_NM = np.exp(-(z_NM**2) / 2) / math.sqrt(2 * math.pi)
        return sigma_NM * (z_NM * _normal(z_NM) + density_NM) - self.cost * estimates.cost_NM

    def reason(self, estimates: Estimates, choice: int) -> str:
        """See `Rule.reason`."""
        return "best plan of one answer and, where it is unsure, another"

    def next_below(self, estimates: Estimates, asked: Sequence[int], choice: int) -> float | None:
        """The confidence at which the best promise of the others just pays; found by bisection."""
        left = [m for m in range(len(estimates.models)) if m not in (*asked, choice)]
        if not left:
            return None

        def best(kept: float) -> float:
            return float(self._gain(estimates, np.array([[kept]]))[0, left].max())

        low, high = 0.0, 1.0
        if best(low) <= 0:
            return 0.0
        if best(high) > 0:
            return 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if best(middle) > 0 else (low, middle)
        return low

    def sweep(self, estimates: Estimates) -> Sequence[Replan]:
        """At prices from "the cheapest" to "the best"."""
        return [Replan(each.cost, self.spread) for each in Weights().sweep(estimates)]


def _normal(z: Matrix) -> Matrix:
    """The standard normal distribution function, elementwise."""
    chance: Matrix = 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(z / math.sqrt(2)))
    return chance
