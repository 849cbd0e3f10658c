"""What was gathered or trained, kept as safetensors: half-done beside its place, and in its place when it is whole.

A file carries a key, the hash of everything that its content depends on; one with another key counts as not there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from roster.errors import RosterError

EVERY = 30.0
"""Seconds between two saves of what is half-done."""
_KEY, _DONE = "roster.key", "roster.done"


class Kept:
    """One file.

    Args:
        path: where it lies when it is whole.
        key: of what it holds.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self._half = path.with_name(f".{path.name}.partial")
        self._saved = time.monotonic()

    def whole(self) -> dict[str, str] | None:
        """The figures of a finished file, by name; None where there is none of this key."""
        found = _metadata(self.path)
        return found if found is not None and found.get(_KEY) == self.key else None

    def half(self) -> tuple[dict[str, Tensor], int]:
        """What a killed run had gathered, and from how many steps; nothing from 0 where there was none."""
        found = _metadata(self._half)
        if found is None or found.get(_KEY) != self.key:
            return {}, 0
        return read_all(self._half), int(found[_DONE])

    def save(self, tensors: Mapping[str, Tensor], done: int, now: bool = False) -> None:
        """Keeps what there is after so many steps, at most every `EVERY` seconds unless `now`."""
        if now or time.monotonic() - self._saved > EVERY:
            _write(self._half, tensors, {_KEY: self.key, _DONE: str(done)})
            self._saved = time.monotonic()

    def finish(self, tensors: Mapping[str, Tensor], figures: Mapping[str, str] | None = None) -> None:
        """Puts the whole file in its place."""
        _write(self.path, tensors, {_KEY: self.key, **(figures or {})})
        self.drop()

    def drop(self) -> None:
        """Nothing half-done is left."""
        self._half.unlink(missing_ok=True)


def read_all(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, each in memory of its own."""
    with safe_open(path, "pt") as opened:
        return {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118  # no mapping


def _metadata(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError):
        return None  # cut short: it is gathered again


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: each.contiguous() for name, each in tensors.items()}, beside, metadata=metadata)
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        raise RosterError(f"{str(path)!r} cannot be written: {error}") from None
    finally:
        beside.unlink(missing_ok=True)
