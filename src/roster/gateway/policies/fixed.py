"""fixed: models in the order of preference; later ones stand in for those that fail."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from roster.gateway.config import Model, Strict
from roster.gateway.policies.base import Untrained
from roster.lm.policy import Decision


class Fixed(Untrained):
    """Always the first model that is available."""

    class Options(Strict):
        """`models`: in the order of preference."""

        models: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]

    @classmethod
    def build(cls, name: str, options: Any, known: Mapping[str, Model], base: Path) -> Self:
        """From the config's options."""
        return cls(name, options.models)

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """The first that is left."""
        chosen = self.left(exclude)[0]
        return Decision(chosen, "first choice" if chosen == self.models[0] else "stands in for the first choice")
