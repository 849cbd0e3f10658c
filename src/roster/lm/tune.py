"""Choosing the operating point: turned on validation prompts, then shown on the test as it came out.

Shape legend: N prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.carrying import carry
from roster.lm.certify import certified, prompts_needed
from roster.lm.curve import Played, corners, interval, resamples
from roster.lm.dial import Setting, above, within
from roster.lm.judging import has_costs, judged
from roster.lm.offpolicy.counterfactual import Counterfactual, checked, worded
from roster.lm.play import Run, dial, ordered, play, play_setting
from roster.lm.records import Matrix, Records
from roster.lm.results import Figure
from roster.lm.routing import Routing
from roster.lm.splits import carve_validation, training


@dataclass(frozen=True)
class Outcome:
    """What one setting gave on one set of prompts."""

    quality: Figure
    cost: Figure


@dataclass(frozen=True)
class Target:
    """What is to be kept: a mean cost per call, at most, or a mean quality, at least."""

    kind: Literal["budget", "floor"]
    value: float

    @classmethod
    def of(cls, budget: float | None, floor: float | None) -> Target:
        """The one that was given; RosterError unless it is just one."""
        if budget is not None and floor is None:
            return cls("budget", budget)
        if floor is not None and budget is None:
            return cls("floor", floor)
        raise RosterError("give either a budget or a quality floor")

    def setting(self, corner_P: NDArray[np.int64], cost_L: Matrix, quality_L: Matrix, mixes: bool) -> Setting:
        """The best setting that keeps it; RosterError where none does."""
        if self.kind == "budget":
            found = within(corner_P, cost_L, self.value, mixes)
            lacking = f"costs at most {self.value:g} per call on validation; the cheapest {cost_L.min():.3g}"
        else:
            found = above(corner_P, quality_L, self.value, mixes)
            lacking = f"reaches quality {self.value:g} on validation; the best {quality_L.max():.4f}"
        if found is None:
            raise RosterError(f"no setting {lacking}")
        return found

    def kept_by(self, outcome: Outcome) -> bool:
        """Whether an outcome keeps it."""
        return outcome.cost.value <= self.value if self.kind == "budget" else outcome.quality.value >= self.value


@dataclass(frozen=True)
class Tuned:
    """A router at its operating point.

    Attributes:
        routing: with the chosen rule; fitted on training and validation prompts, or, where the floor was shown, on
            training prompts alone, because what is fitted anew was not tested.
        validation: what the setting gave where it was chosen (with the estimator fitted on training prompts only).
        test: what it gave on prompts that had no part in the choice; None without a test split.
        kept: whether the test kept the budget or the floor; None without a test split.
        notes: what a reader must know about the data.
    """

    routing: Routing
    validation: Outcome
    test: Outcome | None
    kept: bool | None
    notes: tuple[str, ...]


def tune(
    routing: Routing,
    records: Records,
    *,
    budget: float | None = None,
    floor: float | None = None,
    confidence: float | None = None,
    seed: int = 0,
) -> Tuned:
    """Turns the rule's dial to a mean budget per call, or to a mean quality.

    Where the target lies between two settings and the router may mix, the rule becomes a `Mix` of the two, so that what
    the curve of a report promises is what the tuned router does.

    With a confidence the floor is not only met on validation but shown to hold (`roster.lm.certify`): at least so
    often, over draws of the validation prompts, the router keeps it on traffic like theirs. Such a router is a single
    setting, and stays as it was tested: fitted on training prompts alone.

    Args:
        routing: unfitted or fitted; it is fitted anew.
        records: with training prompts; validation prompts are taken from them if there are none.
        budget: the best quality whose mean cost on validation is at most this.
        floor: the least mean cost whose quality on validation is at least this.
        confidence: with which the floor is to be shown, such as 0.95; None for the best guess.
        seed: of the split and the bootstrap.

    Raises:
        RosterError: not exactly one target, a confidence without a floor, or a target that no setting reaches, or is
            shown to reach, on the validation prompts.
    """
    target = Target.of(budget, floor)
    if not has_costs(records):
        raise RosterError(
            f"records {records.name!r} have no costs, and a {target.kind} weighs them: give prices (--prices of "
            "`roster lm import`)"
        )
    if confidence is not None and floor is None:
        raise RosterError("a confidence belongs to a quality floor: give that too")
    records = carve_validation(records, seed=seed)
    train = records.split("train")
    validation = judged(records.split("validation"), train, "validation", seed)
    routing.fit(train)
    rules = dial(routing, validation)
    played = play(routing, validation, timed=False, rules=rules).played
    setting = _setting(target, played, confidence, validation)
    rule = setting.rule(rules)
    carried = _carried(partial(play, routing, timed=False, rules=rules), setting, validation)
    chosen = _outcome(setting.of(played.score_LN), setting.of(played.cost_LN), seed)
    tuned = Routing(routing.estimator, rule, routing.sees_dataset, routing.mixes, routing.judge)
    if confidence is None:
        tuned.fit(training(records))
    if "test" not in records.splits:
        return Tuned(tuned, chosen, None, None, (*validation.notes, *carried))
    test = judged(records.split("test"), training(records), "test", seed)
    tested = _test(tuned, test, seed)
    notes = tuple(dict.fromkeys((*validation.notes, *carried, *test.notes)))
    return Tuned(tuned, chosen, tested, target.kept_by(tested), notes)


def _shown(played: Played, floor: float, confidence: float) -> Setting:
    """The cheapest setting that is shown to keep the floor; RosterError with what is missing where none is."""
    kept = certified(played.score_LN, floor, confidence)
    if not len(kept):
        best, count = float(played.score_LN[-1].mean()), played.score_LN.shape[1]
        advice = "it is below the floor"
        if best > floor:
            advice = f"about {prompts_needed(floor, confidence, best)} would be needed"
        raise RosterError(
            f"no setting is shown to reach quality {floor:g} with confidence {confidence:g}: the most generous one has "
            f"{best:.4f} on {count} validation prompts; {advice}"
        )
    cheapest = int(kept[played.cost_LN[kept].mean(1).argmin()])
    return Setting(cheapest, cheapest)


def _setting(target: Target, played: Played, confidence: float | None, validation: Records) -> Setting:
    """What validation chooses: the best guess, or what is shown with a confidence."""
    if confidence is None:
        cost_L, quality_L = played.cost_LN.mean(1), played.score_LN.mean(1)
        return target.setting(corners(cost_L, quality_L, played.mixes), cost_L, quality_L, played.mixes)
    if isinstance(validation, Counterfactual):
        raise RosterError("a confidence needs prompts that every model has answered; this log has few or none")
    return _shown(played, target.value, confidence)


def _carried(player: Callable[[Records], Run], setting: Setting, validation: Records) -> tuple[str, ...]:
    """What a log with gaps has to say for the setting, as a note; RosterError where that is too little."""
    if not isinstance(validation, Counterfactual):
        return ()
    return (f"the setting rests on {worded(checked(carry(player, setting, validation).support, 'this setting'))}",)


def _test(routing: Routing, test: Records, seed: int) -> Outcome:
    estimates = ordered(routing.estimator.estimate(test.prompts, test.datasets), test.models)
    return _outcome(*play_setting(routing.rule, estimates, test, routing.sure(test)), seed)


def _outcome(score_N: Matrix, cost_N: Matrix, seed: int) -> Outcome:
    weight_BN = resamples(len(score_N), 1000, seed)
    return Outcome(
        Figure(float(score_N.mean()), *interval(weight_BN @ score_N)),
        Figure(float(cost_N.mean()), *interval(weight_BN @ cost_N)),
    )
