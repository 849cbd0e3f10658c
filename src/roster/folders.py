"""The kinds of saved mixtures: routed adapters beside a base, and whole models with routed blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roster.adapters import reading as adapters
from roster.errors import RosterError, nearest
from roster.moe import reading as moe
from roster.saving import MANIFEST, recover

_READERS: dict[str, Callable[..., Any]] = {"mixture": adapters.load, "moe": moe.load}


def kind_of(folder: Path) -> str:
    """Which kind of mixture a folder holds: "mixture" (adapters) or "moe" (blocks).

    Raises:
        RosterError: it holds none, or one of a kind that this roster does not know.
    """
    recover(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise RosterError(f"{str(folder)!r} is not a roster mixture: it has no {MANIFEST}")
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RosterError(f"{str(path)!r} cannot be read: {error}") from None
    kind = written.get("kind", "mixture") if isinstance(written, dict) else "mixture"
    if kind not in _READERS:
        raise RosterError(f"{str(path)!r} holds a mixture of unknown kind {kind!r}: {nearest(str(kind), _READERS)}")
    return kind


def load_folder(folder: Path, **kwargs: Any) -> Any:
    """Reads a saved mixture of either kind; keyword arguments as its own `load` takes them."""
    return _READERS[kind_of(folder)](folder, **kwargs)
