"""What `roster.json` says of a folder of records and of a policy's, and how those of version 0.1 are read.

Version 0.1 kept the same content in `records.json` and `policy.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import pydantic

from roster.errors import RosterError
from roster.lm.text import DEFAULT, TextRule
from roster.saving import FORMAT, MANIFEST, Manifest, read_manifest, recover


class LmManifest(Manifest):
    """What both kinds share.

    Attributes:
        earlier: the file in which version 0.1 kept this.
        name: of the data or the policy.
        models: their names; in a policy's folder for people only.
    """

    earlier: ClassVar[str]

    name: str
    models: list[str]


class RecordsManifest(LmManifest):
    """`roster.json` of a folder of records; `missing` is for people, `text` is None for what was no log."""

    what: ClassVar[str] = "a folder of records"
    earlier: ClassVar[str] = "records.json"

    kind: Literal["lm-records"] = "lm-records"
    currency: str
    notes: list[str]
    prompts: int
    missing: dict[str, int]
    worded: bool = True
    text: TextRule | None = None


class PolicyManifest(LmManifest):
    """`roster.json` of a policy's folder: parts as `roster.lm.part.pack` gives them, and what tuning showed."""

    what: ClassVar[str] = "a policy's folder"
    earlier: ClassVar[str] = "policy.json"

    kind: Literal["lm-policy"] = "lm-policy"
    estimator: dict[str, Any]
    rule: dict[str, Any]
    judge: dict[str, Any] | None = None
    prices: dict[str, dict[str, float]]
    text: TextRule = DEFAULT
    about: dict[str, Any]


M = TypeVar("M", bound=LmManifest)


def is_here(folder: Path, kind: type[LmManifest]) -> bool:
    """Whether a folder has a manifest, or the file that was one for this kind."""
    recover(folder)
    return (folder / MANIFEST).is_file() or (folder / kind.earlier).is_file()


def read(folder: Path, kind: type[M]) -> M:
    """The manifest of a folder; RosterError when there is none or it says something unknown."""
    recover(folder)
    path = folder / kind.earlier
    if (folder / MANIFEST).is_file() or not path.is_file():
        return read_manifest(folder, kind)
    try:
        return kind.model_validate({**json.loads(path.read_bytes()), "format": FORMAT})
    except (OSError, ValueError, TypeError, pydantic.ValidationError) as error:
        raise RosterError(f"{str(path)!r} cannot be read: {str(error).splitlines()[0]}") from None
