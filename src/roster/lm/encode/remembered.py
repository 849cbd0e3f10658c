"""Rows on disk by text: what an encoder has paid for once is not paid for again.

One SQLite file, safe for several processes. A row is found by the encoder's own name and the text's sha256, so that
texts are not stored and encoders share the file.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError

_AT_ONCE = 500
"""Keys in one query; SQLite allows 999."""


def default_file() -> Path:
    """In ~/.cache/roster, or the folder that ROSTER_CACHE names."""
    return Path(os.environ.get("ROSTER_CACHE") or Path.home() / ".cache" / "roster") / "embeddings.sqlite"


class Remembered:
    """Rows of one encoder.

    Args:
        encoder: whatever makes its rows differ from another's: kind, address, model, width.
        file: made with its folder where it is missing.
    """

    def __init__(self, encoder: str, file: Path | None = None):
        self.encoder, self.file = encoder, file or default_file()

    def find(self, texts: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The rows that are there, by text."""
        by_key = {self._key(text): text for text in texts}
        keys, found = list(by_key), {}
        with closing(self._open()) as base:
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                for key, row in base.execute(f"SELECT key, row FROM rows WHERE key IN ({marks})", part):
                    found[by_key[key]] = np.frombuffer(row, dtype="<f4").astype(np.float32)
        return found

    def keep(self, rows: Mapping[str, NDArray[np.float32]]) -> None:
        """Writes rows, all or none of them."""
        each = [(self._key(text), np.asarray(row, dtype="<f4").tobytes()) for text, row in rows.items()]
        with closing(self._open()) as base, base:
            base.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", each)

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(f"{self.encoder}\0{text}".encode("utf-8", "surrogatepass")).digest()

    def _open(self) -> sqlite3.Connection:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(self.file, timeout=30)
            base.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise RosterError(
                f"embeddings cannot be kept in {str(self.file)!r}: {error}; ROSTER_CACHE names another folder"
            ) from None
        return base
