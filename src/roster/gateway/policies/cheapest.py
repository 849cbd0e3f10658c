"""cheapest: the lowest price; equal prices go by load."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from roster.gateway.config import Model, Price, Strict
from roster.gateway.policies.base import Untrained, prices_of
from roster.gateway.prices import estimate
from roster.lm.policy import Decision


class Cheapest(Untrained):
    """The model whose answer will cost least, among equals the one with the fewest requests in flight."""

    class Options(Strict):
        """`models`: whom to choose among; by default all."""

        models: tuple[str, ...] | None = Field(default=None, min_length=1, strict=False)

    def __init__(self, name: str, models: tuple[str, ...], prices: Mapping[str, Price]) -> None:
        super().__init__(name, models)
        self.prices = prices

    @classmethod
    def build(cls, name: str, options: Any, known: Mapping[str, Model], base: Path) -> Self:
        """From the config's options."""
        models = options.models or tuple(known)
        return cls(name, models, prices_of(models, known))

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """By estimated cost, then by load, then by name."""
        costs = {model: estimate(self.prices[model], prompt, max_tokens) for model in self.left(exclude)}
        chosen = min(costs, key=lambda model: (costs[model], (load or {}).get(model, 0.0), model))
        return Decision(chosen, "cheapest", cost=costs[chosen])
