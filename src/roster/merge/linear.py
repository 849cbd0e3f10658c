"""Linear: the weighted mean of models ("model soup").

Equation: theta = sum_i w_i theta_i, divided by sum_i w_i where `normalize` is on.
Source: Wortsman et al. 2022, arXiv 2203.05482. As in mergekit; sums are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from roster.errors import RosterError
from roster.merge.method import Method, PerModel, per_model, shared
from roster.weights import Kernel


@dataclass
class Linear(Kernel):
    """Operands: the models."""

    weight: PerModel = per_model()
    normalize: bool = shared(True)

    def __post_init__(self) -> None:
        if self.normalize and abs(sum(self.weight)) < 1e-8:
            raise RosterError("the weights sum to 0, so their mean does not exist; set normalize: false to add them")

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module."""
        total = sum(self.weight) if self.normalize else 1.0
        result = x[0].mul_(self.weight[0] / total)
        for weight, each in zip(self.weight[1:], x[1:], strict=True):
            result.add_(each, alpha=weight / total)
        return result


METHOD = Method("linear", "Linear (model soup)", "Wortsman et al. 2022, arXiv 2203.05482", Linear, base="member")
