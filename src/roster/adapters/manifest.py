"""What a folder of routed adapters says of itself: `roster.json`, and where its tensors lie."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic

from roster.saving import Manifest, check_name

EXPERTS, BASE = "experts", "base"
ROUTER = "router"
GIVEN = "given"
"""Of an option that a function was given for."""
Name = Annotated[str, pydantic.AfterValidator(check_name)]


class Expert(pydantic.BaseModel, extra="forbid"):
    """One expert of a saved mixture."""

    name: Name
    weights_hash: str


class Base(pydantic.BaseModel, extra="forbid"):
    """The base that a saved mixture belongs to."""

    name: str | None
    included: bool
    architecture: str
    fingerprint: dict[str, str]


class MixtureManifest(Manifest):
    """`roster.json` of a mixture of adapters.

    Attributes:
        template: digest of the chat template that prompts go through; None in folders of roster 0.1.
    """

    recipe: str
    options: dict[str, Any]
    experts: list[Expert]
    tasks: list[str]
    base: Base
    template: str | None = None
