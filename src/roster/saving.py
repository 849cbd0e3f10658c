"""The one way to write and read a folder: its manifest, the names in it, its tensors, and the swap that keeps it whole.

Mixtures of adapters, models with routed blocks, exports, single adapters and tuned policies are all written through
`writing`: a folder is made beside its place and takes it when it is whole, so that a process that is killed at any
moment leaves the old folder or the new one. Between the two renames of the swap neither is in place; `recover` puts
the old one back. A name that stands in a file never leads outside its folder (`inside`).

What a folder of some kind contains is the business of that kind's own `writing` and `reading` modules.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import pydantic
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from roster.errors import RosterError

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "roster.json"
FORMAT = 1
_WAIT = 5.0  # seconds for a swap of another process to be over: it is two renames


class Manifest(pydantic.BaseModel, extra="forbid"):
    """`roster.json`, as far as every kind of folder has it.

    Attributes:
        what: what such a folder is called in messages.
        format: of the folder; this roster reads format 1.
    """

    what: ClassVar[str] = "a roster mixture"

    format: int = FORMAT


@dataclass(frozen=True)
class Wanted:
    """What a caller of `save_pretrained` wants beside a folder.

    Attributes:
        include_base: whether the base's own files go along; None: when it has no public name.
        state: tensors to write instead of the model's own, by name (gathered from a sharded model).
        max_shard_size: of one file of weights, in bytes or as text ("5GB").
    """

    include_base: bool | None = None
    state: Mapping[str, Tensor] | None = None
    max_shard_size: int | str = "5GB"


M = TypeVar("M", bound=Manifest)


def read_manifest(folder: Path, kind: type[M]) -> M:
    """`roster.json` of a folder; RosterError when there is none or it says something unknown."""
    path = folder / MANIFEST
    recover(folder)
    if not path.is_file():
        raise RosterError(f"{str(folder)!r} is not {kind.what}: it has no {MANIFEST}")
    try:
        manifest = kind.model_validate_json(path.read_text(encoding="utf-8"))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RosterError(f"{str(path)!r} cannot be read: {where or 'the file'}: {first['msg']}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RosterError(f"{str(path)!r} cannot be read: {str(error).splitlines()[0]}") from None
    if manifest.format != FORMAT:
        raise RosterError(f"{str(path)!r} has format {manifest.format}; this roster reads format {FORMAT}")
    return manifest


def check_name(name: str) -> str:
    """The name, when it can be one of a file or folder and nothing else; RosterError otherwise."""
    if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name) or len(name.encode()) > 255:
        raise RosterError(f"{name!r} cannot be the name of a folder")
    return name


def inside(folder: Path, name: str, where: str) -> Path:
    """The entry of a folder that a file names; RosterError when the name leads elsewhere.

    Args:
        folder: what the name is relative to.
        name: as it was read.
        where: the file that it was read from, for the message.
    """
    try:
        return folder / check_name(name)
    except RosterError:
        raise RosterError(
            f"{where} names {name!r}, which is no entry of {str(folder)!r}: roster follows no name out of its folder"
        ) from None


@contextmanager
def writing(folder: str | Path, owned: tuple[str, ...] = (), through_link: bool = True) -> Iterator[Path]:
    """An empty folder to write to, which takes `folder`'s place at the end of the with-block.

    Entries of an old folder that the new one does not have (a trainer's state, notes) go along.

    Args:
        folder: where to; made with its parents when it is not there.
        owned: names of what belongs to the kind of folder that is written: of the old folder, they do not go along.
        through_link: when `folder` is a link, write where it points; False puts a folder in the link's place.

    Raises:
        RosterError: the disk is full, the place cannot be written, or another process is writing there. What was at
            `folder` is as it was.
    """
    folder = Path(folder)
    target = Path(os.path.realpath(folder)) if through_link else Path(os.path.abspath(folder))
    if os.path.ismount(target):
        raise RosterError(f"{str(folder)!r} is a mount point, which cannot be swapped as a whole: name a folder in it")
    if target.exists() and not target.is_dir():
        raise RosterError(f"{str(folder)!r} is a file, not a folder")
    new, old = _beside(target, "new"), _beside(target, "old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            _settle(target, new, old)
            new.mkdir()
            try:
                yield new
                if target.exists():
                    if not target.is_symlink():  # what a link points at is not ours to take from
                        _bring_along(target, new, owned)
                    target.rename(old)
                new.rename(target)
            except BaseException:
                if not target.exists() and old.exists():
                    old.rename(target)
                _remove(new)
                raise
            _remove(old)
    except (OSError, SafetensorError) as error:
        what = "what was there is as it was" if target.exists() else "nothing was left there"
        raise RosterError(f"cannot write {str(folder)!r}: {error}; {what}") from error


def recover(folder: str | Path) -> None:
    """Puts a folder back that a killed process had moved aside to swap it."""
    target = Path(os.path.abspath(folder))
    old = _beside(target, "old")
    if target.exists() or not old.exists():
        return
    with locked(target, wait=_WAIT):
        if not target.exists() and old.exists():
            old.rename(target)


def _beside(target: Path, role: str) -> Path:
    return target.with_name(f".{target.name}.{role}")


def _settle(target: Path, new: Path, old: Path) -> None:
    """Ends what a killed process had begun; its lock is gone, so nobody is at it."""
    if not target.exists() and old.exists():
        old.rename(target)
    _remove(old)
    _remove(new)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _bring_along(target: Path, new: Path, owned: tuple[str, ...]) -> None:
    """Links what only the old folder has into the new one: a copy that costs no bytes, where the disk can link."""
    for entry in target.iterdir():
        if entry.name in owned or (new / entry.name).exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True, copy_function=_link)
        else:
            _link(entry, new / entry.name)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


@contextmanager
def locked(target: Path, wait: float = 0.0) -> Iterator[None]:
    """Held by whoever writes a folder; a process that dies lets go of it.

    Args:
        target: the folder.
        wait: seconds for another process to be done.

    Raises:
        RosterError: it was not.
    """
    path = _beside(target, "lock")
    lock = FileLock(path, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        if not path.exists():  # nobody holds it: it cannot be made
            raise PermissionError(errno.EACCES, "no file can be made in the folder above", str(target.parent)) from None
        raise RosterError(f"another process is writing {str(target)!r}: wait until it is done") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who opened it before sees that it is gone, and opens it anew
        lock.release()
