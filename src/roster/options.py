"""Options of recipes as people type them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from roster.errors import RosterError


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`["top_k=2", "experts=vectors"]` -> `{"top_k": 2, "experts": "vectors"}`; values are JSON where they can be."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise RosterError(f"--option takes name=value, not {pair!r}")
        if name in options:
            raise RosterError(f"--option {name} is given twice")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    return options
