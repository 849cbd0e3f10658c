"""Routers of roster under a board's own score, on records that came from it.

As everywhere, settings are chosen on validation prompts by routers fitted on training prompts, and read on the test by
routers fitted on both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from roster.errors import RosterError
from roster.lm.boards.routerarena import arena_score, arena_score_of
from roster.lm.boards.routerbench import aiq
from roster.lm.judging import complete
from roster.lm.play import dial, play
from roster.lm.records import Records
from roster.lm.routing import Routing
from roster.lm.splits import training

Make = Callable[[], Routing]


@dataclass(frozen=True)
class Arena:
    """One router under RouterArena's score.

    Attributes:
        accuracy: mean score on the test.
        cost_per_1000: dollars.
        score: of both.
    """

    accuracy: float
    cost_per_1000: float
    score: float


def routerbench_scores(records: Records, routers: Mapping[str, Make]) -> dict[str, float]:
    """AIQ of each router's hull over its whole dial on the test, among these routers."""
    test = complete(_split(records, "test"))
    learn = training(records)
    curves = {slug: play(make().fit(learn), test, timed=False).played.curve() for slug, make in routers.items()}
    return aiq(curves)


def routerarena_scores(records: Records, routers: Mapping[str, Make]) -> dict[str, Arena]:
    """The score of each router at the setting that scores best on validation."""
    validation, test = (complete(_split(records, part), part) for part in ("validation", "test"))
    found = {}
    for slug, make in routers.items():
        routing = make().fit(records.split("train"))
        rules = dial(routing, validation)
        before = play(routing, validation, timed=False, rules=rules).played
        scores = [arena_score_of(*each) for each in zip(before.score_LN, before.cost_LN, strict=True)]
        chosen = int(np.argmax(scores))
        after = play(make().fit(training(records)), test, timed=False, rules=rules[chosen : chosen + 1]).played
        accuracy, cost = float(after.score_LN.mean()), 1000 * float(after.cost_LN.mean())
        found[slug] = Arena(accuracy, cost, arena_score(accuracy, cost))
    return found


def _split(records: Records, name: str) -> Records:
    if name not in records.splits:
        raise RosterError(f"records {records.name!r} have no {name} split; `roster lm board import` makes one")
    return records.split(name)
