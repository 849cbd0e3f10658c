"""One row of the ledger: what the store keeps of a request, and how it is written and read.

A new column is a line in `COLUMNS`, a field of `Call`, and its value in `values`; stores that are older get it added.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from roster.gateway.databases import Database
from roster.lm.policy import Decision

COLUMNS = {
    "id": "TEXT PRIMARY KEY",
    "at": "DOUBLE PRECISION NOT NULL",
    "name": "TEXT NOT NULL",
    "policy": "TEXT",
    "model": "TEXT NOT NULL",
    "decision": "TEXT NOT NULL",
    "cost": "BIGINT NOT NULL",
    "prompt_tokens": "BIGINT",
    "completion_tokens": "BIGINT",
    "outcome": "TEXT NOT NULL",
    "prompt": "TEXT",
    "team": "TEXT",
    "day": "TEXT",
    "seconds": "DOUBLE PRECISION",
    "quality": "DOUBLE PRECISION",
    "experiment": "TEXT",
    "counted": "TEXT",
}
SCHEMA = (
    f"CREATE TABLE IF NOT EXISTS calls ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})",
    "CREATE INDEX IF NOT EXISTS calls_at ON calls (at)",
)


@dataclass(frozen=True)
class Context:
    """What surrounds a call.

    Attributes:
        team: of the key.
        seconds: from the request to its end.
        experiment: in which the policy was drawn; see `wishes.py`.
        counted: who counted the tokens: upstream, tokenizer, or nobody (bound: there are at most so many).
    """

    team: str | None = None
    seconds: float | None = None
    experiment: str | None = None
    counted: str | None = None


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
        context: the rest, for reports.
        at: when it ended, in seconds since 1970.
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
    context: Context = Context()
    at: float = field(default_factory=time.time)

    @property
    def size(self) -> int:
        """Bytes in memory, roughly."""
        return 1024 + 4 * len(self.prompt or "")

    def values(self) -> dict[str, Any]:
        """By column."""
        decision = asdict(self.decision) | {"quality_by_model": dict(self.decision.quality_by_model)}
        # Lone surrogates can come in by JSON and cannot go out as UTF-8.
        prompt = None if self.prompt is None else self.prompt.encode("utf-8", "replace").decode().replace("\0", "")
        same = ("id", "at", "name", "policy", "model", "cost", "prompt_tokens", "completion_tokens", "outcome")
        return {column: getattr(self, column) for column in same} | {
            "decision": json.dumps(decision),
            "prompt": prompt,
            "team": self.context.team,
            "day": datetime.fromtimestamp(self.at, UTC).strftime("%Y-%m-%d"),
            "seconds": self.context.seconds,
            "quality": self.decision.quality,
            "experiment": self.context.experiment,
            "counted": self.context.counted,
        }


def prepare(database: Database) -> None:
    """Makes the table, or adds the columns that an older one lacks."""
    for statement in SCHEMA:
        database.run(statement)
    there = {column[0] for column in database.run("SELECT * FROM calls LIMIT 0").description}
    for name in COLUMNS.keys() - there:
        database.run(f"ALTER TABLE calls ADD COLUMN {name} {COLUMNS[name]}")


def insert(database: Database, call: Call) -> bool:
    """Writes a call; False when it is there already."""
    values = call.values()
    marks = ", ".join("?" * len(values))
    sql = f"INSERT INTO calls ({', '.join(values)}) VALUES ({marks}) ON CONFLICT DO NOTHING"
    return bool(database.run(sql, *values.values()).rowcount == 1)


def find(database: Database, id: str) -> Call | None:
    """A call by its id."""
    columns = (
        "id, name, policy, model, decision, cost, prompt_tokens, completion_tokens, outcome, prompt, "
        "team, seconds, experiment, counted, at"
    )
    row = database.run(f"SELECT {columns} FROM calls WHERE id = ?", id).fetchone()
    if row is None:
        return None
    values: list[Any] = list(row[:10])
    values[4] = Decision(**json.loads(values[4]))
    values += [Context(*row[10:14]), row[14]]
    return Call(*values)
