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
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from roster.errors import RosterError
from roster.gateway.databases import Database, Postgres, Sqlite
from roster.lm.policy import Decision

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS spending (name TEXT, period TEXT, used BIGINT NOT NULL, PRIMARY KEY (name, period))",
    """CREATE TABLE IF NOT EXISTS calls (
        id TEXT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, name TEXT NOT NULL, policy TEXT, model TEXT NOT NULL,
        decision TEXT NOT NULL, cost BIGINT NOT NULL, prompt_tokens BIGINT, completion_tokens BIGINT,
        outcome TEXT NOT NULL, prompt TEXT)""",
    "CREATE INDEX IF NOT EXISTS calls_at ON calls (at)",
    """CREATE TABLE IF NOT EXISTS feedback (
        call TEXT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, score DOUBLE PRECISION NOT NULL,
        learned INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS learned (
        policy TEXT PRIMARY KEY, version BIGINT NOT NULL, state BYTES NOT NULL)""",
)
Result = TypeVar("Result")
Update = Callable[[bytes | None], bytes]


class ScoredBefore(RosterError):
    """A call is scored once."""


class Learned(NamedTuple):
    """What a policy has learned: each feedback makes the next version."""

    version: int
    state: bytes


@dataclass(frozen=True)
class Call:
    """One request that was answered, or charged for.

    Attributes:
        id: what the client knows it by.
        name: the key's owner.
        policy: who decided; None where the client named the model.
        model: who answered.
        decision: the decision that led to that model.
        cost: of all attempts, in billionths.
        prompt_tokens: of the answering model.
        completion_tokens: of the answering model.
        outcome: "answered", or what ended it.
        prompt: the text; None unless prompts are logged.
    """

    id: str
    name: str
    policy: str | None
    model: str
    decision: Decision
    cost: int
    prompt_tokens: int
    completion_tokens: int
    outcome: str = "answered"
    prompt: str | None = None


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
        return database

    async def _do(self, work: Callable[[Database], Result]) -> Result:
        def guarded() -> Result:
            try:
                with self._database.transaction():
                    return work(self._database)
            except self._database.lost:
                # PostgreSQL was restarted: nothing was committed, so the work may be done again.
                self._database = self._connect()
                with self._database.transaction():
                    return work(self._database)

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    def close(self) -> None:
        """Waits for what was begun, and closes the database."""
        self._thread.submit(lambda: self._database.close()).result()
        self._thread.shutdown()

    async def reserve(self, name: str, period: str, amount: int, budget: int) -> bool:
        """Sets `amount` aside; False when the budget does not allow it."""

        def work(database: Database) -> bool:
            database.run("INSERT INTO spending VALUES (?, ?, 0) ON CONFLICT DO NOTHING", name, period)
            return database.run(
                "UPDATE spending SET used = used + ? WHERE name = ? AND period = ? AND used + ? <= ?",
                amount, name, period, amount, budget,
            ).rowcount == 1  # fmt: skip

        return await self._do(work)

    async def settle(self, name: str, period: str, difference: int, call: Call | None = None) -> None:
        """Adds `difference` (actual cost less what was reserved) to the spending, and records the call."""

        def work(database: Database) -> None:
            if difference:
                database.run(
                    "INSERT INTO spending VALUES (?, ?, ?) ON CONFLICT (name, period) "
                    "DO UPDATE SET used = spending.used + excluded.used",
                    name, period, difference,
                )  # fmt: skip
            if call is not None:
                _insert_call(database, call)

        await self._do(work)

    async def used(self, name: str, period: str) -> int:
        """What was spent or is reserved."""
        sql = "SELECT used FROM spending WHERE name = ? AND period = ?"
        rows = await self._do(lambda database: database.run(sql, name, period).fetchall())
        return rows[0][0] if rows else 0

    async def call(self, id: str) -> Call | None:
        """A recorded call."""
        sql = (
            "SELECT id, name, policy, model, decision, cost, prompt_tokens, completion_tokens, outcome, prompt "
            "FROM calls WHERE id = ?"
        )
        rows = await self._do(lambda database: database.run(sql, id).fetchall())
        if not rows:
            return None
        values: list[Any] = list(rows[0])
        values[4] = Decision(**json.loads(values[4]))
        return Call(*values)

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

        return await self._do(work)

    async def learned(self, policy: str, newer_than: int = 0) -> Learned | None:
        """What a policy has learned; None where there is nothing newer."""
        sql = "SELECT version, state FROM learned WHERE policy = ? AND version > ?"
        rows = await self._do(lambda database: database.run(sql, policy, newer_than).fetchall())
        return Learned(rows[0][0], bytes(rows[0][1])) if rows else None

    async def prune(self, keep_days: int) -> None:
        """Forgets old calls and their feedback; what was learned from it stays."""
        before = time.time() - keep_days * 86_400

        def work(database: Database) -> None:
            database.run("DELETE FROM feedback WHERE at < ?", before)
            database.run("DELETE FROM calls WHERE at < ?", before)

        await self._do(work)


def _insert_call(database: Database, call: Call) -> None:
    decision = asdict(call.decision) | {"quality_by_model": dict(call.decision.quality_by_model)}
    # Lone surrogates can come in by JSON and cannot go out as UTF-8.
    prompt = None if call.prompt is None else call.prompt.encode("utf-8", "replace").decode().replace("\0", "")
    database.run(
        "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        call.id, time.time(), call.name, call.policy, call.model, json.dumps(decision), call.cost,
        call.prompt_tokens, call.completion_tokens, call.outcome, prompt,
    )  # fmt: skip
