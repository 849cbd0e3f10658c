"""The two databases behind one small face: connect, transaction, run. SQL is written once, with `?` and BYTES."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from roster.errors import RosterError


class Database(Protocol):
    """What the store needs of a database.

    Attributes:
        errors: what it raises.
        lost: those that say that the connection is gone.
        for_update: what a SELECT ends with whose row is about to be changed.
    """

    errors: tuple[type[Exception], ...]
    lost: tuple[type[Exception], ...]
    for_update: str

    def transaction(self) -> Any:
        """A context: commits at its end, rolls back on an error."""
        ...

    def run(self, sql: str, *values: Any) -> Any:
        """Executes one statement; returns the cursor."""
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


class Sqlite:
    """A file, made when it is not there."""

    errors: tuple[type[Exception], ...] = (sqlite3.Error,)
    lost: tuple[type[Exception], ...] = ()
    for_update = ""  # a transaction here locks the whole file for writing

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Transactions are begun and ended by hand below; another process may hold the lock for a moment.
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
        except (sqlite3.Error, OSError) as error:
            raise RosterError(f"store: {str(path)!r} cannot be opened as a SQLite database: {error}") from None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Takes the write lock at once, so that it cannot fail half-way for want of it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk may have rolled it back already; a commit that failed leaves it open.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Executes one statement."""
        return self._connection.execute(sql.replace("BYTES", "BLOB"), values)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


class Postgres:
    """A server; needs psycopg, the extra `postgres`."""

    for_update = " FOR UPDATE"

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise RosterError("store: PostgreSQL needs psycopg: pip install 'roster-moe[postgres]'") from None
        self.errors: tuple[type[Exception], ...] = (psycopg.Error,)
        self.lost: tuple[type[Exception], ...] = (psycopg.OperationalError,)
        try:
            # A server that is cut off must not hold the thread for as long as TCP would.
            self._connection = psycopg.connect(url, autocommit=True, connect_timeout=10, tcp_user_timeout=10_000)
        except (psycopg.Error, ValueError):  # whose text may hold the password
            raise RosterError("store: PostgreSQL cannot be reached with the URL in the config") from None

    def transaction(self) -> Any:
        """Commits at its end, rolls back on an error."""
        return self._connection.transaction()

    def run(self, sql: str, *values: Any) -> Any:
        """Executes one statement."""
        return self._connection.execute(sql.replace("BYTES", "BYTEA").replace("?", "%s"), values or None)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()
