"""What a folder of routed adapters says of itself: `roster.json`, and where its tensors lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic

from roster.errors import RosterError
from roster.saving import MANIFEST

ROUTER = "router.safetensors"


class Expert(pydantic.BaseModel, extra="forbid"):
    """One expert of a saved mixture."""

    name: str
    weights_hash: str


class Base(pydantic.BaseModel, extra="forbid"):
    """The base that a saved mixture belongs to."""

    name: str | None
    included: bool
    architecture: str
    fingerprint: dict[str, str]


class Manifest(pydantic.BaseModel, extra="forbid"):
    """`roster.json`."""

    format: int = 1
    recipe: str
    options: dict[str, Any]
    experts: list[Expert]
    tasks: list[str]
    base: Base


def read_manifest(folder: Path) -> Manifest:
    """`roster.json` of a folder; RosterError when there is none or it says something unknown."""
    path = folder / MANIFEST
    if not path.is_file():
        raise RosterError(f"{str(folder)!r} is not a roster mixture: it has no {MANIFEST}")
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (pydantic.ValidationError, UnicodeDecodeError) as error:
        raise RosterError(f"{str(path)!r} cannot be read: {str(error).splitlines()[0]}") from None
    if manifest.format != 1:
        raise RosterError(f"{str(path)!r} has format {manifest.format}; this roster reads format 1")
    return manifest
