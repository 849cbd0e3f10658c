"""mix: each model with a fixed probability; the baseline that a learned router has to beat at equal cost."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from roster.errors import RosterError
from roster.gateway.config import Model, Strict
from roster.gateway.policies.base import Untrained
from roster.lm.policy import Decision


class Mix(Untrained):
    """A weighted random choice.

    Args:
        name: what clients call it.
        weights: relative weight per model, above zero.
        seed: of the draw; None: different at every start.
    """

    class Options(Strict):
        """`weights`: model to weight; `seed`: for repeatable draws."""

        weights: Annotated[dict[str, Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]], Field(min_length=1)]
        seed: Annotated[int, Field(ge=0)] | None = None

    def __init__(self, name: str, weights: Mapping[str, float], seed: int | None = None) -> None:
        if not all(0 < weight < float("inf") for weight in weights.values()):
            raise RosterError("the weights must be above zero, and finite")
        super().__init__(name, weights)
        self.weights = dict(weights)
        self._rng = np.random.default_rng(seed)

    @classmethod
    def build(cls, name: str, options: Any, known: Mapping[str, Model], base: Path) -> Self:
        """From the config's options."""
        return cls(name, options.weights, options.seed)

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """Draws among those that are left."""
        left = self.left(exclude)
        weights = np.array([self.weights[model] for model in left])
        shares = weights / weights.sum()
        at = int(self._rng.choice(len(left), p=shares))
        return Decision(left[at], f"drawn with probability {shares[at]:.2f}", propensity=float(shares[at]))
