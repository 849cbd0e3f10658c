"""Where the adapters of a folder lie: what PEFT writes, under the names that it gives to files."""

from __future__ import annotations

import os
from pathlib import Path

from roster.errors import RosterError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
DEFAULT = "default"
"""What PEFT calls an adapter that nobody named."""


def adapter_folders(folder: str | Path) -> list[Path]:
    """The sub-folders that are adapters, in the order of their names.

    A folder that PEFT's `save_pretrained` wrote with several adapters in the model is one itself, and comes first.

    Raises:
        RosterError: no such folder, nothing in it, an adapter instead of a folder of them, or weights with no config.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RosterError(f"there is no folder {str(folder)!r}")
    paths = []
    for path in sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir()):
        if (path / CONFIG).exists():
            paths.append(path)
        elif (path / WEIGHTS).exists():
            raise RosterError(f"{str(path)!r} has an {WEIGHTS}, but no {CONFIG}")
    if (folder / CONFIG).exists():
        if not paths:
            raise RosterError(f"{str(folder)!r} is one adapter; give the folder above it, which holds several")
        if DEFAULT in (path.name for path in paths):
            raise RosterError(f"{str(folder)!r} holds two adapters called {DEFAULT!r}: itself, and the one in it")
        return [folder, *paths]
    if not paths:
        raise RosterError(f"{str(folder)!r} holds no adapters (sub-folders with an {CONFIG})")
    return paths


def name_of(path: Path, folder: Path) -> str:
    """What an adapter of a folder is called; the one that lies in the folder itself is PEFT's "default"."""
    return DEFAULT if path == folder else path.name
