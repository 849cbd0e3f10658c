"""A strategy: how slots are divided, who makes room, what is read ahead. Published ones are recipes, plain ones here.

`begin` makes everything that one run of a cache needs, fresh; the same strategy serves the engine and the simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from roster.offload.policies import ARC, FIFO, LFU, LRU, Policy
from roster.offload.predicting import Predictor
from roster.offload.residency import Residency, by_layer, pooled

if TYPE_CHECKING:
    from roster.offload.traces import Routes


@dataclass(frozen=True)
class Geometry:
    """The mixtures of a model, as far as a cache knows them.

    Attributes:
        experts: how many each layer has, for the layers that have any.
        k: experts that a token visits.
        vocab: how many token ids there are; 0 where that is not known.
    """

    experts: tuple[int, ...]
    k: int
    vocab: int = 0

    @property
    def total(self) -> int:
        """Experts of all layers."""
        return sum(self.experts)


@dataclass
class Run:
    """The parts of one running cache."""

    residency: Residency
    predictor: Predictor | None = None


Strategy = Callable[["Geometry", int, "Routes | None"], Run]
"""(the model's geometry, slots, recorded routes to learn from or None) -> what runs."""

_POLICIES: dict[str, Callable[[int], Policy]] = {
    "lru": lambda slots: LRU(),
    "lfu": lambda slots: LFU(),
    "fifo": lambda slots: FIFO(),
    "arc": ARC,
}
PLAIN = tuple(_POLICIES)
"""Names of the strategies that only look back."""


def plain(name: str, pool: bool = False) -> Strategy:
    """A classical rule without prediction.

    Args:
        name: one of `PLAIN`.
        pool: whether all layers share the slots; otherwise each has an equal part of its own.
    """
    make = _POLICIES[name]

    def begin(geometry: Geometry, slots: int, routes: Routes | None) -> Run:
        divide = pooled if pool else by_layer
        return Run(Residency(divide(slots, geometry.experts), make))

    return begin
