"""What must survive a kill at any moment: calls, feedback, spending and what policies have learned.

One transaction per event. SQLite (in WAL mode, where a committed transaction survives the process, though the last
ones may be lost with the machine's power) or PostgreSQL, where several gateways may share one store.

Budgets: `reserve` adds the most that a call can cost, in one statement that fails when the budget would be exceeded;
`settle` corrects it to what the call did cost. A call that was under way at a kill is never settled and so counts in
full: a budget may then be used up early, but is never exceeded.

Money is in whole billionths of the currency.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from roster.errors import RosterError
from roster.gateway import calls
from roster.gateway.calls import Call
from roster.gateway.databases import Database, Postgres, Sqlite

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS spending (name TEXT, period TEXT, used BIGINT NOT NULL, PRIMARY KEY (name, period))",
    """CREATE TABLE IF NOT EXISTS feedback (
        call TEXT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, score DOUBLE PRECISION NOT NULL,
        learned INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS learned (
        policy TEXT PRIMARY KEY, version BIGINT NOT NULL, state BYTES NOT NULL)""",
)
Result = TypeVar("Result")
Update = Callable[[bytes | None], bytes]
_ENDLESS = 2**62


class _Refused(Exception):
    """A budget does not allow it; rolls the transaction back."""


class ScoredBefore(RosterError):
    """A call is scored once."""


class Learned(NamedTuple):
    """What a policy has learned: each feedback makes the next version."""

    version: int
    state: bytes


class StoreAway(RosterError):
    """The store cannot be read or written now."""


class Row(NamedTuple):
    """A line of spending.

    Attributes:
        name: whose.
        period: such as 2026-01.
        budget: the most that it may hold, in billionths; None: no limit.
    """

    name: str
    period: str
    budget: int | None


class Entry(NamedTuple):
    """What a request leaves.

    Attributes:
        rows: whose spending changes.
        difference: actual cost less what was reserved.
        call: to be recorded; its id makes sure that the entry counts once, however often it is written.
    """

    rows: tuple[Row, ...]
    difference: int
    call: Call | None

    @property
    def size(self) -> int:
        """Bytes in memory, roughly."""
        return 512 + (0 if self.call is None else self.call.size)


class Store:
    """The database behind the gateway. Methods run on one thread of its own, in the order in which they are called.

    Args:
        url: sqlite:///path or postgresql://...
        base: what a relative path is relative to.

    Raises:
        RosterError: the database cannot be opened.
    """

    def __init__(self, url: str, base: Path = Path()) -> None:
        self._thread = ThreadPoolExecutor(1, "roster-store")
        self._open: Callable[[], Database] = (
            (lambda: Sqlite(base / url.removeprefix("sqlite:///")))
            if url.startswith("sqlite:///")
            else lambda: Postgres(url)
        )
        self._database = self._thread.submit(self._connect).result()

    def _connect(self) -> Database:
        database = self._open()
        with database.transaction():
            for statement in SCHEMA:
                database.run(statement)
            calls.prepare(database)
        return database

    async def do(self, work: Callable[[Database], Result]) -> Result:
        """Runs one transaction on the store's thread.

        Raises:
            StoreAway: it could not be done.
        """

        def guarded() -> Result:
            try:
                return self._transact(work)
            except self._database.errors as error:
                # Its first line: the rest may quote values.
                raise StoreAway(f"store: {(str(error).splitlines() or [type(error).__name__])[0]}") from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    def _transact(self, work: Callable[[Database], Result]) -> Result:
        try:
            with self._database.transaction():
                return work(self._database)
        except self._database.lost:
            # PostgreSQL was restarted: nothing was committed, so the work may be done again.
            try:
                fresh = self._connect()
            except RosterError as error:
                raise StoreAway(str(error)) from None
            self._database.close()
            self._database = fresh
            with self._database.transaction():
                return work(self._database)

    def close(self) -> None:
        """Waits for what was begun, and closes the database."""
        self._thread.submit(lambda: self._database.close()).result()
        self._thread.shutdown()

    async def reserve(self, rows: Sequence[Row], amount: int) -> bool:
        """Sets `amount` aside in every row; False, and nowhere, when one's budget does not allow it."""

        def work(database: Database) -> bool:
            for row in sorted(rows):  # in one order, so that two gateways cannot wait for each other
                database.run("INSERT INTO spending VALUES (?, ?, 0) ON CONFLICT DO NOTHING", row.name, row.period)
                most = _ENDLESS if row.budget is None else row.budget
                changed = database.run(
                    "UPDATE spending SET used = used + ? WHERE name = ? AND period = ? AND used + ? <= ?",
                    amount, row.name, row.period, amount, most,
                )  # fmt: skip
                if changed.rowcount != 1:
                    raise _Refused
            return True

        try:
            return await self.do(work)
        except _Refused:
            return False

    async def settle(self, entries: Sequence[Entry]) -> None:
        """Adds each difference to the spending and records each call, in one transaction."""

        def work(database: Database) -> None:
            for entry in entries:
                if entry.call is not None and not calls.insert(database, entry.call):
                    continue  # it was written before, by a transaction whose end was not heard of
                for row in sorted(entry.rows) if entry.difference else ():
                    database.run(
                        "INSERT INTO spending VALUES (?, ?, ?) ON CONFLICT (name, period) "
                        "DO UPDATE SET used = spending.used + excluded.used",
                        row.name, row.period, entry.difference,
                    )  # fmt: skip

        await self.do(work)

    async def used(self, name: str, period: str) -> int:
        """What was spent or is reserved."""
        sql = "SELECT used FROM spending WHERE name = ? AND period = ?"
        rows = await self.do(lambda database: database.run(sql, name, period).fetchall())
        return rows[0][0] if rows else 0

    async def call(self, id: str) -> Call | None:
        """A recorded call."""
        return await self.do(lambda database: calls.find(database, id))

    async def ping(self) -> None:
        """Does nothing, if the store can be written."""
        await self.do(lambda database: database.run("UPDATE spending SET used = used WHERE name = ?", ""))

    async def add_feedback(self, call: str, score: float, policy: str | None, update: Update | None) -> Learned | None:
        """Records a score and, in the same transaction, what a policy learns from it.

        Args:
            call: the call's id; it can be scored once.
            score: in [0, 1].
            policy: whose state is updated.
            update: makes the new state from the stored one, which may be another gateway's; None: nothing to learn.

        Returns:
            The new version and state; None without an update.

        Raises:
            ScoredBefore: the call has a score.
        """

        def work(database: Database) -> Learned | None:
            added = database.run(
                "INSERT INTO feedback VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                call, time.time(), score, int(update is not None),
            )  # fmt: skip
            if added.rowcount != 1:
                raise ScoredBefore(f"the call {call!r} was scored before")
            if update is None or policy is None:
                return None
            database.run("INSERT INTO learned VALUES (?, 0, ?) ON CONFLICT DO NOTHING", policy, b"")
            sql = f"SELECT version, state FROM learned WHERE policy = ?{database.for_update}"
            version, state = database.run(sql, policy).fetchone()
            learned = Learned(version + 1, update(bytes(state) or None))
            database.run("UPDATE learned SET version = ?, state = ? WHERE policy = ?", *learned, policy)
            return learned

        return await self.do(work)

    async def learned(self, policy: str, newer_than: int = 0) -> Learned | None:
        """What a policy has learned; None where there is nothing newer."""
        sql = "SELECT version, state FROM learned WHERE policy = ? AND version > ?"
        rows = await self.do(lambda database: database.run(sql, policy, newer_than).fetchall())
        return Learned(rows[0][0], bytes(rows[0][1])) if rows else None

    async def prune(self, keep_days: int) -> None:
        """Forgets old calls and their feedback; what was learned from it stays."""
        before = time.time() - keep_days * 86_400

        def work(database: Database) -> None:
            database.run("DELETE FROM feedback WHERE at < ?", before)
            database.run("DELETE FROM calls WHERE at < ?", before)

        await self.do(work)
