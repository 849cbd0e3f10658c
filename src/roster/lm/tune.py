"""Choosing the operating point: turned on validation prompts, then shown on the test as it came out.

Shape legend: N prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roster.errors import RosterError
from roster.lm.curve import interval, resamples
from roster.lm.decide import Rule
from roster.lm.evaluate import training
from roster.lm.play import complete, ordered, play, play_setting
from roster.lm.records import Records
from roster.lm.results import Figure
from roster.lm.routing import Routing
from roster.lm.splits import carve_validation


@dataclass(frozen=True)
class Outcome:
    """What one setting gave on one set of prompts."""

    quality: Figure
    cost: Figure


@dataclass(frozen=True)
class Tuned:
    """A router at its operating point.

    Attributes:
        routing: fitted on training and validation prompts, with the chosen rule.
        validation: what the setting gave where it was chosen (with the estimator fitted on training prompts only).
        test: what it gave on prompts that had no part in the choice; None without a test split.
        kept: whether the test kept the budget or the floor; None without a test split.
    """

    routing: Routing
    validation: Outcome
    test: Outcome | None
    kept: bool | None


def tune(
    routing: Routing, records: Records, *, budget: float | None = None, floor: float | None = None, seed: int = 0
) -> Tuned:
    """Turns the rule's dial to a mean budget per call, or to a mean quality.

    Args:
        routing: unfitted or fitted; it is fitted anew.
        records: with training prompts; validation prompts are taken from them if there are none.
        budget: the best quality whose mean cost on validation is at most this.
        floor: the least mean cost whose quality on validation is at least this.
        seed: of the split and the bootstrap.

    Raises:
        RosterError: not exactly one target, or one that no setting reaches on the validation prompts.
    """
    if (budget is None) == (floor is None):
        raise RosterError("give either a budget or a quality floor")
    records = carve_validation(records, seed=seed)
    validation = complete(records.split("validation"))
    routing.fit(records.split("train"))
    played = play(routing, validation, timed=False).played
    cost_L, quality_L = played.cost_LN.mean(1), played.score_LN.mean(1)
    at = _within(cost_L, quality_L, budget) if budget is not None else _above(cost_L, quality_L, floor)
    estimates = ordered(routing.estimator.estimate(validation.prompts, validation.datasets), validation.models)
    rule: Rule = routing.rule.sweep(estimates)[at]
    chosen = _outcome(played.score_LN[at], played.cost_LN[at], seed)
    tuned = Routing(routing.estimator, rule, routing.sees_dataset, routing.mixes).fit(training(records))
    if "test" not in records.splits:
        return Tuned(tuned, chosen, None, None)
    tested = _test(tuned, complete(records.split("test")), seed)
    kept = tested.cost.value <= budget if budget is not None else tested.quality.value >= floor
    return Tuned(tuned, chosen, tested, bool(kept))


def _within(cost_L: np.ndarray, quality_L: np.ndarray, budget: float) -> int:
    fits = cost_L <= budget
    if not fits.any():
        raise RosterError(
            f"no setting costs at most {budget:g} per call on validation; the cheapest {cost_L.min():.3g}"
        )
    return int(np.lexsort((cost_L, -np.where(fits, quality_L, -np.inf)))[0])


def _above(cost_L: np.ndarray, quality_L: np.ndarray, floor: float) -> int:
    fits = quality_L >= floor
    if not fits.any():
        raise RosterError(f"no setting reaches quality {floor:g} on validation; the best {quality_L.max():.4f}")
    return int(np.lexsort((-quality_L, np.where(fits, cost_L, np.inf)))[0])


def _test(routing: Routing, test: Records, seed: int) -> Outcome:
    estimates = ordered(routing.estimator.estimate(test.prompts, test.datasets), test.models)
    return _outcome(*play_setting(routing.rule, estimates, test), seed)


def _outcome(score_N: np.ndarray, cost_N: np.ndarray, seed: int) -> Outcome:
    weight_BN = resamples(len(score_N), 1000, seed)
    return Outcome(
        Figure(float(score_N.mean()), *interval(weight_BN @ score_N)),
        Figure(float(cost_N.mean()), *interval(weight_BN @ cost_N)),
    )
