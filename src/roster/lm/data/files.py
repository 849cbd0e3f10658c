"""Reading the compressed files that come with roster."""

from __future__ import annotations

import json
import lzma
from importlib.resources import files
from typing import Any


def read_bytes(path: str) -> bytes:
    """The content of a file under `roster/lm/data`; `.xz` is unpacked."""
    content = (files("roster.lm.data") / path).read_bytes()
    return lzma.decompress(content) if path.endswith(".xz") else content


def read_json(path: str) -> Any:
    """One JSON value."""
    return json.loads(read_bytes(path))


def read_lines(path: str) -> list[Any]:
    """One JSON value a line."""
    return [json.loads(line) for line in read_bytes(path).decode().splitlines()]
