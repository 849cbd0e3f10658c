"""An experiment from the ledger: its arms side by side, and how sure the differences are.

Differences are between means of independent requests, with Welch's 95 % interval, which is wide where there are few and
says nothing about arms that got different requests (an experiment draws them at random; a shadow sees only some).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from roster.errors import RosterError, nearest
from roster.gateway.config_file import Config
from roster.gateway.keys import NANO
from roster.gateway.store import Store

MEASURES = ("cost", "seconds", "answered", "score")
FEWEST = 2
"""Values of an arm without which there is no interval."""


class Arm(NamedTuple):
    """One policy's requests.

    Attributes:
        policy: its name.
        calls: how many.
        means: by measure; None where nothing was measured.
        differences: to the first arm, by measure: the difference, and its interval; None where it cannot be said.
    """

    policy: str
    calls: int
    means: dict[str, float | None]
    differences: dict[str, tuple[float, float, float] | None]


async def compare(store: Store, config: Config, name: str) -> list[Arm]:
    """The arms of an experiment, or a shadow beside the policy that it follows; the first is the yardstick.

    Raises:
        RosterError: there is no such experiment.
    """
    known = [*config.routing.experiments, *config.routing.shadows]
    if name not in known:
        raise RosterError(f"there is no experiment or shadow {name!r}: {nearest(name, known)}")
    columns = "policy, cost, seconds, CASE WHEN outcome IN ('answered', 'cached') THEN 1.0 ELSE 0.0 END, feedback.score"
    shadow = config.routing.shadows.get(name)
    where = "experiment = ?" if shadow is None else "(experiment = ? OR (policy = ? AND name NOT LIKE 'shadow %'))"
    values = (name,) if shadow is None else (name, shadow.of)
    sql = f"SELECT {columns} FROM calls LEFT JOIN feedback ON feedback.call = calls.id WHERE {where}"
    rows = await store.do(lambda database: database.run(sql, *values).fetchall())
    order = list(config.routing.experiments[name].arms) if shadow is None else [shadow.of, shadow.policy]
    samples = {policy: _samples([row for row in rows if row[0] == policy]) for policy in order}
    first = samples[order[0]]
    return [
        Arm(
            policy,
            sum(row[0] == policy for row in rows),
            {measure: float(each.mean()) if len(each) else None for measure, each in samples[policy].items()},
            {measure: _difference(samples[policy][measure], first[measure]) for measure in MEASURES}
            if policy != order[0]
            else {},
        )
        for policy in order
    ]


def _samples(rows: list[tuple[str, int, float | None, float, float | None]]) -> dict[str, NDArray[np.float64]]:
    columns = {"cost": [row[1] / NANO for row in rows]} | {
        measure: [row[at] for row in rows if row[at] is not None] for at, measure in enumerate(MEASURES[1:], 2)
    }
    return {measure: np.array(values, dtype=np.float64) for measure, values in columns.items()}


def _difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float, float] | None:
    if min(len(ours), len(theirs)) < FEWEST:
        return None
    difference = float(ours.mean() - theirs.mean())
    # Welch's interval by its formula: SciPy's test warns of values that are all the same, such as fixed costs.
    spread = [0.0 if np.ptp(each) == 0 else float(each.var(ddof=1)) / len(each) for each in (ours, theirs)]
    if not any(spread):
        return difference, difference, difference
    counts = (len(ours), len(theirs))
    freedom = sum(spread) ** 2 / sum(each**2 / (count - 1) for each, count in zip(spread, counts, strict=True))
    half = float(stats.t.ppf(0.975, freedom)) * sum(spread) ** 0.5
    return difference, difference - half, difference + half
