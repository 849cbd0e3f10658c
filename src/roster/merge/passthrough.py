"""Passthrough: tensors as they are, to put layers of models on top of each other; scaled where `scale` says so.

Source: mergekit (Goddard et al. 2024, arXiv 2403.13257).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from roster.merge.method import Method, PerModel, per_model
from roster.weights import Kernel


@dataclass
class Passthrough(Kernel):
    """Operand: one model."""

    scale: PerModel = per_model(1.0)

    def __post_init__(self) -> None:
        self.raw = self.scale == (1.0,)

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module."""
        return x[0] if self.raw else x[0].mul_(self.scale[0])


METHOD = Method(
    "passthrough", "Passthrough", "Goddard et al. 2024, arXiv 2403.13257", Passthrough, base="member", most=1
)
