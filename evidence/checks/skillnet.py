"""SkillNet-NLG's claim, its first part: where people name the skills of each task, a block of skills beats a dense one.

A task is the sum of two of four made-up functions; the skills that are named are those functions.
"""

from __future__ import annotations

from itertools import combinations
from random import Random
from typing import Any

from evidence.checks.blocks import teacher
from evidence.grounds.tasks import FEATURES, OUT, Function, Tasks, fresh, learned, missed, net_for
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

SKILLS, STEPS = 4, 800
PAIRS = list(combinations(range(SKILLS), 2))


def _pairs() -> Tasks:
    functions = [teacher(FEATURES, OUT) for _ in range(SKILLS)]

    def both(a: int, b: int) -> Function:
        return lambda x_BF: functions[a](x_BF) + functions[b](x_BF)

    return Tasks([both(a, b) for a, b in PAIRS])


def _named(shuffled: bool = False) -> Contender:
    """Two named skills a task; shuffled, every task has another one's."""

    def run(draw: Draw) -> float:
        pairs = list(PAIRS)
        if shuffled:
            Random(draw.luck).shuffle(pairs)
        skills = {f"task {at}": [f"skill {one}" for one in pair] for at, pair in enumerate(pairs)}
        return _error("skillnet-nlg", options={"skills": skills}, hidden=16)(draw)

    return run


def _error(recipe: str, **more: Any) -> Contender:
    def run(draw: Draw) -> float:
        tasks = fresh(draw, _pairs)
        made = learned(draw, net_for(tasks, recipe, **more), lambda: tasks.draw(range(len(PAIRS)), 16), STEPS)
        return missed(draw, made, tasks, range(len(PAIRS)))

    return run


CHECKS = (
    make_check(
        slug="skillnet-nlg",
        version=1,
        claim="Where the skills of each task are named, a block of skills beats one dense block for all tasks.",
        ground="six tasks, each the sum of two of four made-up functions of the same inputs, a code of the task beside "
        "the features; 800 steps of 96 rows",
        budget="equal active units, 32: two skills of 16, or one block of 32; SkillNet has twice the parameters",
        contenders={
            "SkillNet": ("four skills of 16 units, of which a task's two serve", _named()),
            "dense": ("one block of 32 units", _error("dense-active", hidden=32)),
            "shuffled": ("the same, every task under another one's skills", _named(shuffled=True)),
            "wide": ("control: one block of 64 units", _error("dense-active", hidden=64)),
        },
        pairs=Pairs("SkillNet", "dense", "shuffled", "wide", "dense"),
        statistic=Statistic("relative squared error on fresh rows of all tasks", "lower", 0.02),
    ),
)
