"""Uni-Perceiver-MoE's claim: routed by attributes of the task, conflicting tasks disturb each other less than in a
dense block.

Two tasks want opposite functions of the same inputs; four more are unrelated. That a task's experts merge into one
block with the same outputs is a test, not a claim.
"""

from __future__ import annotations

from typing import Any

from evidence.checks.blocks import teacher
from evidence.grounds.tasks import FEATURES, OUT, Tasks, fresh, learned, missed, net_for
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

PAIRS, STEPS = 3, 800
ATTRIBUTES = [[pair >> 1 & 1, pair & 1, sign] for pair in range(PAIRS) for sign in (0, 1)]
"""Which function it is, and its sign."""


def _opposites() -> Tasks:
    functions = [teacher(FEATURES, OUT) for _ in range(PAIRS)]
    signed = [(function, sign) for function in functions for sign in (1, -1)]
    return Tasks([lambda x, f=function, s=sign: s * f(x) for function, sign in signed])  # type: ignore[misc]


def _error(recipe: str, options: dict[str, Any] | None = None, **more: Any) -> Contender:
    def run(draw: Draw) -> float:
        tasks = fresh(draw, _opposites)
        made = net_for(tasks, recipe, options, **more)
        learned(draw, made, lambda: tasks.draw(range(2 * PAIRS), 32), STEPS)
        return missed(draw, made, tasks, range(2 * PAIRS))

    return run


CHECKS = (
    make_check(
        slug="uni-perceiver-moe",
        version=1,
        claim="Routed by the tasks' attributes, a mixture has a lower error on conflicting tasks than a dense block.",
        ground="six tasks on the same inputs: three functions and their opposites, a code of the task beside the "
        "features; 800 steps of 32 rows a task",
        budget="32 hidden units a row: 2 of 8 experts of 16 units, or one block",
        contenders={
            "attributes": ("by three attributes", _error("uni-perceiver-moe", {"attributes": ATTRIBUTES})),
            "dense": ("one block", _error("dense-active")),
            "token": (
                "the same mixture by the token: without the attributes",
                _error("uni-perceiver-moe", {"condition": "token"}),
            ),
            "wider": ("control: one block of 40 units", _error("dense-active", hidden=40)),
        },
        pairs=Pairs("attributes", "dense", "token", "wider", "dense"),
        statistic=Statistic("relative squared error on fresh rows of all tasks", "lower", 0.02),
    ),
)
