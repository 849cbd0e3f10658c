"""What `evidence/` found of each claim: read from a file that its runner writes; nothing is judged here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal


@dataclass(frozen=True)
class Verdict:
    """What the protocol says of a claim.

    Attributes:
        word: "shown", "refuted" or "undecided".
        reason: why, in words.
        declarations: every declaration of the method with its result, the oldest version first.
        earlier: what a check before the protocol said (`shown`, and `where` it stands), which is no verdict; or None.
    """

    word: Literal["shown", "refuted", "undecided"]
    reason: str
    declarations: tuple[dict[str, Any], ...] = field(default_factory=tuple)
    earlier: dict[str, Any] | None = None


@cache
def verdicts() -> dict[str, Verdict]:
    """By slug; a method without a claim has none."""
    content = json.loads((files("roster.recipes") / "verdicts.json").read_text(encoding="utf-8"))
    return {
        slug: Verdict(each["verdict"], each["reason"], tuple(each["declarations"]), each.get("earlier"))
        for slug, each in content.items()
    }
