"""Keys that are issued while the gateway runs: made by `roster gateway key` or the admin API, kept in the store.

Only the SHA-256 of a key's secret is kept; the secret is shown once, when it is made. A name is never given out again,
so that spending stays its owner's.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass

from roster.errors import RosterError
from roster.gateway.config import Rules
from roster.gateway.databases import Database
from roster.gateway.store import Store

SCHEMA = """CREATE TABLE IF NOT EXISTS virtual_keys (
    name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, rules TEXT NOT NULL, created DOUBLE PRECISION NOT NULL,
    expires DOUBLE PRECISION, revoked DOUBLE PRECISION)"""
PREFIX = "sk-roster-"


@dataclass(frozen=True)
class VirtualKey:
    """A key as the store has it.

    Attributes:
        name: its owner's.
        sha256: of the secret, hexadecimal.
        rules: what it may do.
        created: in seconds since 1970.
        expires: after which it is refused; None: never.
        revoked: since when it is refused; None: it is not.
    """

    name: str
    sha256: str
    rules: Rules
    created: float
    expires: float | None = None
    revoked: float | None = None

    @property
    def works(self) -> bool:
        """Whether it is accepted now."""
        return self.revoked is None and (self.expires is None or time.time() < self.expires)

    def told(self) -> dict[str, object]:
        """For lists: all but the hash."""
        rules = self.rules.model_dump(mode="json", exclude_none=True)
        times = {"created": self.created, "expires": self.expires, "revoked": self.revoked}
        return {"name": self.name, "works": self.works} | rules | times


async def create(store: Store, name: str, rules: Rules, days: float | None = None) -> str:
    """Makes a key.

    Args:
        store: where it is kept.
        name: its owner's; it must be new.
        rules: what it may do.
        days: after which it expires; None: never.

    Returns:
        The secret, which nobody can show again.

    Raises:
        RosterError: there is or was a key of this name.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    now = time.time()
    expires = None if days is None else now + days * 86_400

    def work(database: Database) -> bool:
        database.run(SCHEMA)
        sql = "INSERT INTO virtual_keys VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT DO NOTHING"
        return bool(database.run(sql, name, digest, rules.model_dump_json(), now, expires).rowcount == 1)

    if not await store.do(work):
        raise RosterError(f"there is or was a key called {name!r}: names are given out once")
    return secret


async def revoke(store: Store, name: str) -> None:
    """Makes a key worthless, for ever.

    Raises:
        RosterError: there is no such key that works.
    """

    def work(database: Database) -> bool:
        database.run(SCHEMA)
        sql = "UPDATE virtual_keys SET revoked = ? WHERE name = ? AND revoked IS NULL"
        return bool(database.run(sql, time.time(), name).rowcount == 1)

    if not await store.do(work):
        raise RosterError(f"there is no key {name!r} that could be revoked")


async def listed(store: Store) -> list[VirtualKey]:
    """All keys, also those that no longer work."""

    def work(database: Database) -> list[VirtualKey]:
        database.run(SCHEMA)
        sql = "SELECT name, sha256, rules, created, expires, revoked FROM virtual_keys ORDER BY created"
        rows = database.run(sql).fetchall()
        return [VirtualKey(row[0], row[1], Rules.model_validate_json(row[2]), *row[3:]) for row in rows]

    return await store.do(work)
