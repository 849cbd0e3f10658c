"""What a folder of a model with routed blocks says of itself: how its blocks came to be routed."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from roster.saving import Manifest


class Made(pydantic.BaseModel, extra="forbid"):
    """How a model came to its routed blocks: what it takes to do it again, before the weights are filled in."""

    how: str


class Replaced(Made):
    """By `roster.moe.replace`."""

    how: Literal["replaced"] = "replaced"
    recipe: str
    options: dict[str, Any]
    layers: list[int] | None
    hidden: int | None
    tasks: list[str]


class Adopted(Made):
    """By `roster.moe.adopt`."""

    how: Literal["adopted"] = "adopted"
    router: str | None
    options: dict[str, Any]
    tasks: list[str]


class BlockManifest(Manifest):
    """`roster.json` of a model with routed blocks."""

    kind: Literal["moe"] = "moe"
    made: Replaced | Adopted = pydantic.Field(discriminator="how")
    architecture: str
    base_name: str | None
