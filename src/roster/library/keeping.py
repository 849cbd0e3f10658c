"""Keeping a folder of adapters: adding one by copy or link, taking one away, and its older versions.

    my-adapters/reverse/                        the version that is used
    my-adapters/.versions/reverse/5b0f37c2a1d4/ an older one, by the start of its weights' hash

Nothing is added that cannot be read, or that belongs to another base. Whoever changes a folder holds its lock, so two
processes do it one after the other, and a process that is killed leaves the old adapter or the new one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from roster.errors import RosterError, nearest
from roster.library.gates import GATES
from roster.library.reading import read_adapter
from roster.library.writing import described
from roster.saving import MANIFEST, check_name, locked, writing
from roster.shelf.card import CARD
from roster.shelf.contents import Contents, check_one_base, read_contents
from roster.shelf.folders import CONFIG, DEFAULT, WEIGHTS, adapter_folders, name_of
from roster.shelf.index import Index

VERSIONS = ".versions"
_WAIT = 60.0  # seconds for another process to be done with the folder: an adapter is copied in less
_HASH = 12
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
CARRIED = (CONFIG, WEIGHTS, CARD, GATES, *TOKENIZER, "chat_template.jinja", "README.md")
"""What of an adapter's folder goes along; a trainer's state, logs and pickles do not."""


def add(
    folder: str | Path, source: str | Path, *, name: str | None = None, link: bool = False, replace: bool = False
) -> Path:
    """Puts an adapter into a folder of adapters.

    Args:
        folder: where to; made when it is not there.
        source: the adapter's own folder.
        name: what it is called there; by default what its folder is called.
        link: point at it instead of copying it.
        replace: an adapter of that name with other weights is put away as an older version.

    Returns:
        Its place.

    Raises:
        RosterError: it cannot be read, belongs to another base than the others, or its name is taken.
    """
    folder, source = Path(folder), Path(os.path.abspath(source))
    name = _usable(name or source.name)
    check_plain(folder)
    new = read_adapter(source)
    told = read_contents(source, name)
    if folder.exists() and not folder.is_dir():
        raise RosterError(f"{str(folder)!r} is a file, not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=_WAIT):
        place = folder / name
        others = _others(folder, name)
        check_one_base([*others, told])
        if place.exists() or place.is_symlink():
            _make_way(folder, place, new.weights_hash, replace)
        if link:
            _link(source, place)
        else:
            with writing(place, CARRIED, through_link=False) as fresh:
                for each in CARRIED:
                    if (source / each).is_file():
                        shutil.copy2(source / each, fresh / each)
                described(new).write(fresh)
    return place


def remove(folder: str | Path, name: str) -> Path:
    """Takes an adapter, or one of its older versions ("reverse@5b0f37c2a1d4"), out of a folder; a link is cut only.

    Raises:
        RosterError: there is no such adapter.
    """
    folder = Path(folder)
    check_plain(folder)
    with locked(folder, wait=_WAIT):
        path = path_of(folder, name)
        if path == folder:
            raise RosterError(f"{name!r} lies in {str(folder)!r} itself, beside the others: move its files by hand")
        _erase(path)
        if path.parent.parent.name == VERSIONS and not any(path.parent.iterdir()):
            path.parent.rmdir()
    return path


def path_of(folder: str | Path, name: str) -> Path:
    """Where an adapter of a folder lies, or an older version of it ("reverse@5b0f37c2a1d4", or fewer digits).

    Raises:
        RosterError: there is none, or several whose hash begins so.
    """
    folder = Path(folder)
    paths = {name_of(path, folder): path for path in adapter_folders(folder)}
    if name in paths:
        return paths[name]
    own, at, digits = name.rpartition("@")
    if at:
        found = [path for path in versions(folder).get(own, []) if path.name.startswith(digits)]
        if len(found) == 1:
            return found[0]
        raise RosterError(f"{len(found)} versions of {own!r} have a hash that begins with {digits!r}")
    raise RosterError(f"there is no expert {name!r}: {nearest(name, paths)}")


def versions(folder: str | Path) -> dict[str, list[Path]]:
    """The older versions that a folder keeps, by adapter, oldest first."""
    found: dict[str, list[Path]] = {}
    for config in Path(folder).glob(f"{VERSIONS}/*/*/{CONFIG}"):
        found.setdefault(config.parent.parent.name, []).append(config.parent)
    return {name: sorted(found[name], key=lambda path: path.lstat().st_mtime_ns) for name in sorted(found)}


def check_plain(folder: Path) -> None:
    """RosterError for the experts of a saved mixture, which its manifest names one by one."""
    if (folder.parent / MANIFEST).is_file() and folder.name == "experts":
        raise RosterError(
            f"{str(folder)!r} belongs to the mixture {str(folder.parent)!r}: `roster experts add` and `remove` take "
            "the mixture itself"
        )


def _usable(name: str) -> str:
    if check_name(name).startswith(".") or name == DEFAULT or "@" in name:
        raise RosterError(f"an expert cannot be called {name!r}: give it another name (--name)")
    return name


def _others(folder: Path, name: str) -> list[Contents]:
    try:
        return [each for each in Index(folder).contents if each.name != name and not each.problem]
    except RosterError:  # it holds none yet
        return []


def _make_way(folder: Path, place: Path, weights_hash: str, replace: bool) -> None:
    """Puts an adapter away as an older version of itself."""
    if not (place / CONFIG).is_file():
        raise RosterError(f"{str(place)!r} is already there and is not an adapter; roster does not replace it")
    old = read_adapter(place, stale_card=True).weights_hash
    if old == weights_hash:
        if not replace:
            raise RosterError(f"{place.name!r} is there with the same weights ({old[:_HASH]}); --replace takes it anew")
        return
    if not replace:
        raise RosterError(
            f"{place.name!r} is there with other weights ({old[:_HASH]}, not {weights_hash[:_HASH]}): --replace puts "
            "that version away under its hash, --name calls the new one something else"
        )
    kept = folder / VERSIONS / place.name / old[:_HASH]
    if kept.exists() or kept.is_symlink():
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        _link(Path(os.path.realpath(place)), kept)
    else:
        with writing(kept) as fresh:
            shutil.copytree(place, fresh, dirs_exist_ok=True)


def _link(source: Path, place: Path) -> None:
    """A link that is there whole or not at all."""
    if place.exists() and not place.is_symlink():
        _erase(place)
    new = place.with_name(f".{place.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(source, target_is_directory=True)
    new.rename(place)


def _erase(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
        return
    gone = path.with_name(f".{path.name}.old")  # a half of it never looks like an adapter
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone)
