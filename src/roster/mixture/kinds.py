"""The kinds of saved mixtures: routed adapters beside a base, and whole models with routed blocks."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from roster.errors import RosterError, nearest
from roster.mixture.folder import MANIFEST

# Imported at use: the two kinds build on each other's files.
_READERS = {"mixture": "roster.mixture.folder", "moe": "roster.moe.folder"}


def kind_of(folder: Path) -> str:
    """Which kind of mixture a folder holds: "mixture" (adapters) or "moe" (blocks).

    Raises:
        RosterError: it holds none, or one of a kind that this roster does not know.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise RosterError(f"{str(folder)!r} is not a roster mixture: it has no {MANIFEST}")
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RosterError(f"{str(path)!r} cannot be read: {error}") from None
    kind = written.get("kind", "mixture") if isinstance(written, dict) else "mixture"
    if kind not in _READERS:
        raise RosterError(f"{str(path)!r} holds a mixture of unknown kind {kind!r}: {nearest(str(kind), _READERS)}")
    return kind


def load_folder(folder: Path, **kwargs: Any) -> Any:
    """Reads a saved mixture of either kind; keyword arguments as its own `load` takes them."""
    return import_module(_READERS[kind_of(folder)]).load(folder, **kwargs)
