"""Task-MoE's claim: routed by the task, a mixture is better than the same mixture routed by the token.

That a task's sub-network answers as the full mixture does, with fewer parameters, is a test, not a claim.
"""

from __future__ import annotations

from typing import Any

from evidence.grounds.tasks import fresh, learned, missed, net_for, unrelated
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

TASKS, STEPS = 12, 800


def _error(recipe: str, **more: Any) -> Contender:
    def run(draw: Draw) -> float:
        tasks = fresh(draw, unrelated(TASKS))
        made = net_for(tasks, recipe, **more)
        learned(draw, made, lambda: tasks.draw(range(TASKS), 16), STEPS)
        return missed(draw, made, tasks, range(TASKS))

    return run


CHECKS = (
    make_check(
        slug="task-moe",
        version=1,
        claim="Routed by the task, a mixture has a lower error than the same mixture routed by the token.",
        ground="12 unrelated tasks on the same inputs, a code of the task beside the features; 800 steps of 192 rows",
        budget="8 experts of 16 units, 2 serve",
        contenders={
            "by task": ("a router of a task's vector, balance 0.01", _error("task-moe")),
            "by token": ("a linear router of features and code, balance 0.01", _error("gshard-top2")),
            "wider": ("control: by token, experts of 20 units", _error("gshard-top2", hidden=40)),
        },
        pairs=Pairs("by task", "by token", "by token", "wider", "by token"),
        statistic=Statistic("relative squared error on fresh rows of all tasks", "lower", 0.02),
    ),
)
