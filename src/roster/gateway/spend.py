"""What was spent, on what, and how it went: sums over the calls in the store, for the command line and the page."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from roster.errors import RosterError, nearest
from roster.gateway.databases import Database
from roster.gateway.keys import NANO
from roster.gateway.store import Store

COLUMNS = {
    "key": "name",
    "team": "team",
    "model": "model",
    "policy": "policy",
    "day": "day",
    "experiment": "experiment",
}
"""What can be grouped by, and its column."""
NEWEST = 20_000
"""Calls that quantiles of the time are taken from."""


class Spent(NamedTuple):
    """One line.

    Attributes:
        what: the key, team, model, policy or day; None where a call has none.
        calls: how many.
        answered: the share of them that ended well.
        cost: in the currency of the prices.
        prompt_tokens: read.
        completion_tokens: written.
        quality: the mean estimate of the policies; None without any.
        score: the mean of clients' feedback; None without any.
        seconds: the mean time of a call.
    """

    what: str | None
    calls: int
    answered: float
    cost: float
    prompt_tokens: int
    completion_tokens: int
    quality: float | None
    score: float | None
    seconds: float | None


async def spent(store: Store, by: str, days: float | None = None) -> list[Spent]:
    """Sums by one thing, the dearest first; by day, in their order.

    Args:
        store: to read.
        by: key, team, model, policy or day.
        days: how far back; None: as far as calls are kept.

    Raises:
        RosterError: there is no such thing to group by.
    """
    if by not in COLUMNS:
        raise RosterError(f"spending cannot be grouped by {by!r}: {nearest(by, COLUMNS)}")
    since = 0.0 if days is None else time.time() - days * 86_400
    order = "1" if by == "day" else "4 DESC, 1"
    sql = (
        f"SELECT calls.{COLUMNS[by]}, count(*), "
        "avg(CASE WHEN outcome IN ('answered', 'cached') THEN 1.0 ELSE 0.0 END), sum(cost), "
        "sum(prompt_tokens), sum(completion_tokens), avg(quality), avg(feedback.score), avg(seconds) "
        f"FROM calls LEFT JOIN feedback ON feedback.call = calls.id WHERE calls.at >= ? GROUP BY 1 ORDER BY {order}"
    )
    rows = await store.do(lambda database: database.run(sql, since).fetchall())
    return [
        Spent(row[0], row[1], float(row[2]), int(row[3]) / NANO, int(row[4] or 0), int(row[5] or 0), *row[6:])
        for row in rows
    ]


async def times(store: Store, days: float | None = None) -> dict[str, tuple[float, float]]:
    """The median and the 95th percentile of the seconds that calls took, by model, over the newest of them."""
    since = 0.0 if days is None else time.time() - days * 86_400
    sql = "SELECT model, seconds FROM calls WHERE at >= ? AND seconds IS NOT NULL ORDER BY at DESC LIMIT ?"

    def work(database: Database) -> list[tuple[str, float]]:
        return list(database.run(sql, since, NEWEST).fetchall())

    by_model: dict[str, list[float]] = {}
    for model, seconds in await store.do(work):
        by_model.setdefault(model, []).append(seconds)
    return {
        model: (float(np.median(values)), float(np.quantile(values, 0.95)))
        for model, values in sorted(by_model.items())
    }
