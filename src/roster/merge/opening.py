"""Opening what a config names: checkpoints, and adapters on a checkpoint (`model+adapter`, as mergekit writes it)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from roster.errors import RosterError
from roster.weights import Source, open_checkpoint
from roster.weights.source import folder_of as folder_of


def open_models(names: Iterable[str]) -> dict[str, Source]:
    """Sources by the names in a config; each is opened once.

    Raises:
        RosterError: see `roster.weights.open_checkpoint`.
    """
    return {name: open_model(name) for name in names}


def open_model(name: str) -> Source:
    """One model by its name.

    Raises:
        RosterError: it is not there, or damaged.
    """
    if "+" in name and not Path(name).exists():
        from roster.weights.adapter import Adapted  # PEFT takes seconds to import, and most merges have no adapter

        base, _, adapter = name.partition("+")
        return Adapted(open_checkpoint(base), Path(adapter), name)
    if (Path(name) / "adapter_config.json").is_file() and not (Path(name) / "config.json").is_file():
        raise RosterError(f"{name!r} is an adapter, not a model; write BASE+{name} to merge it as one")
    return open_checkpoint(name)
