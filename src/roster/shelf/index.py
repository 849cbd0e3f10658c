"""What was once read of a folder's adapters, in an SQLite file in it, so that a thousand are listed in a moment.

The folder is the truth and the file only remembers it: an adapter whose files have changed since is read anew, and
whoever deletes the file, or finds it damaged, loses nothing but a moment. Several processes may use it at once. Of a
small folder nothing is kept, and of one that cannot be written to neither: it is read each time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.shelf.contents import Contents, read_contents, stamp
from roster.shelf.folders import adapter_folders, name_of
from roster.shelf.words import Pieces, cosines, pieces

INDEX = ".index.sqlite"
WORTHWHILE = 64
"""Adapters from which on a folder's contents are kept."""
_VERSION = 1
_WAIT = 30.0  # seconds for another process to have written
_TABLES = """
CREATE TABLE IF NOT EXISTS adapters
  (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, contents TEXT NOT NULL, hashes BLOB NOT NULL, counts BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS vectors
  (name TEXT NOT NULL, key TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (name, key));
"""
_Row = tuple[str, str, str, bytes, bytes]


class Index:
    """A folder's adapters.

    Args:
        folder: of adapters.
        least: adapters from which on what was read is kept in the folder.

    Raises:
        RosterError: see `adapter_folders`.
    """

    def __init__(self, folder: str | Path, least: int = WORTHWHILE):
        self.folder = Path(folder)
        paths = adapter_folders(self.folder)
        self._paths = {name_of(path, self.folder): path for path in paths}
        self._file = self.folder / INDEX
        self.kept = len(paths) >= least
        self._rows = self._refreshed()

    @property
    def contents(self) -> list[Contents]:
        """Every adapter, in the order of the names."""
        return [_contents(self._rows[name][2]) for name in self._paths]

    def search(self, text: str, count: int = 5) -> list[tuple[str, float]]:
        """The adapters whose cards are most like a text.

        Args:
            text: a task in words, or a prompt.
            count: how many at most.

        Returns:
            (name, cosine), best first; adapters with nothing in common are left out.
        """
        if count < 1:
            raise RosterError(f"the number of experts to find must be at least 1, not {count}")
        known: list[Pieces] = [
            (np.frombuffer(self._rows[name][3], np.uint32), np.frombuffer(self._rows[name][4], np.uint32))
            for name in self._paths
        ]
        found = cosines(known, pieces(text)).tolist()
        ranked = sorted(zip(self._paths, found, strict=True), key=lambda pair: -pair[1])
        return [(name, score) for name, score in ranked[:count] if score > 0]

    def vectors(self, key: str) -> dict[str, NDArray[np.float32]]:
        """What `remember` kept under a key, of adapters whose files are as they were."""
        if not self._file.is_file():
            return {}
        try:
            with self._opened(str(self._file)) as db:
                rows = db.execute("SELECT name, vector FROM vectors WHERE key = ?", (key,)).fetchall()
        except sqlite3.Error:
            return {}
        return {name: np.frombuffer(vector, np.float32) for name, vector in rows if name in self._paths}

    def remember(self, key: str, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Keeps one vector per adapter, until its files change or the index goes.

        Args:
            key: says what they were made with.
            vectors: by adapter.
        """
        self.kept = True
        self._rows = self._refreshed()
        rows = [(name, key, vector.astype(np.float32).tobytes()) for name, vector in vectors.items()]
        try:
            with self._opened(str(self._file)) as db, _writing(db):
                db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
        except sqlite3.Error:
            return  # it cannot be written there: they are made anew the next time

    def _refreshed(self) -> dict[str, _Row]:
        """Every adapter's row, read anew where its files have changed."""
        if not self.kept:
            return self._read_from(":memory:")
        try:
            return self._read_from(str(self._file))
        except sqlite3.OperationalError:  # the folder cannot be written to, or another process takes forever
            return self._read_from(":memory:")
        except sqlite3.DatabaseError:  # damaged, or something else altogether
            self._file.unlink(missing_ok=True)
            return self._read_from(str(self._file))

    def _read_from(self, place: str) -> dict[str, _Row]:
        stamps = {name: stamp(path) for name, path in self._paths.items()}
        with self._opened(place) as db:
            known: dict[str, _Row] = {row[0]: row for row in db.execute("SELECT * FROM adapters")}
            fresh = [self._read(name, now) for name, now in stamps.items() if _stamp(known.get(name)) != now]
            gone = [(name,) for name in known if name not in stamps]
            if fresh or gone:
                with _writing(db):
                    changed = [(row[0],) for row in fresh] + gone
                    db.executemany("DELETE FROM vectors WHERE name = ?", changed)
                    db.executemany("DELETE FROM adapters WHERE name = ?", gone)
                    db.executemany("INSERT OR REPLACE INTO adapters VALUES (?, ?, ?, ?, ?)", fresh)
        return known | {row[0]: row for row in fresh}

    def _read(self, name: str, now: str) -> _Row:
        contents = read_contents(self._paths[name], name)
        hashes, counts = pieces(contents.words)
        return name, now, json.dumps(asdict(contents)), hashes.tobytes(), counts.tobytes()

    @contextmanager
    def _opened(self, place: str) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(place, timeout=_WAIT, isolation_level=None)) as db:
            if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                with _writing(db):
                    if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:  # nobody else was quicker
                        for table in ("adapters", "vectors"):
                            db.execute(f"DROP TABLE IF EXISTS {table}")
                        for statement in filter(str.strip, _TABLES.split(";")):
                            db.execute(statement)
                        db.execute(f"PRAGMA user_version = {_VERSION}")
            yield db


@contextmanager
def _writing(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, while no other process writes."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _stamp(row: _Row | None) -> str:
    return "" if row is None else row[1]


def _contents(told: str) -> Contents:
    fields: dict[str, Any] = json.loads(told)
    same: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in fields.items()}
    return Contents(**same)
