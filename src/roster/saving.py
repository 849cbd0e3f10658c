"""The one way to write and read a folder: its manifest, its names, its tensors, and the swap that keeps it whole."""

from __future__ import annotations

from pathlib import Path

MANIFEST = "roster.json"
# Of every kind of mixture, so that one kind can take the other's place; the last makes the others a mixture.
_ENTRIES = ("experts", "base", "router.safetensors", "model.safetensors", MANIFEST)


def move_in(new: Path, folder: Path) -> None:
    """Puts a finished folder in place. What else lies in an existing folder (a trainer's state) stays there.

    The mixture that was there is moved aside first, whole, and comes back when anything fails.
    """
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_name("old")
    old.mkdir()
    try:
        for name in _ENTRIES:
            if (folder / name).exists():
                (folder / name).rename(old / name)
        for name in _ENTRIES:
            if (new / name).exists():
                (new / name).rename(folder / name)
    except BaseException:
        for name in _ENTRIES:
            if (folder / name).exists() and (old / name).exists():
                (folder / name).rename(new.with_name(f"failed-{name}"))
            if (old / name).exists():
                (old / name).rename(folder / name)
        raise
