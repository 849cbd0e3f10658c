"""What spherical methods share: a weighted sum whose weights come from norms and angles of the whole tensor, or rows.

`Spanned` looks at its operands once, gathers their inner products, and asks the method for the coefficients of the
result: a mean on a sphere lies in the span of its operands, so nothing else is ever needed of the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from roster.merge.method import gathered
from roster.weights import Gram, Kernel

Matrix = npt.NDArray[np.float64]


@dataclass
class Spanned(Kernel):
    """A method overrides `coefficients`; `differences` says that it spans differences to the first operand."""

    _gram: Gram | None = gathered()
    _found: list[float] | None = gathered()
    differences: ClassVar[bool] = False

    def coefficients(self, gram: Matrix) -> Sequence[float]:
        """One for each spanning vector, from their inner products."""
        raise NotImplementedError

    def begin(self, shape: tuple[int, ...]) -> None:
        """See `Kernel`."""
        self._gram, self._found = None, None

    def wants_look(self) -> bool:
        """One look."""
        return self._found is None

    def look(self, x: Sequence[Tensor], start: int) -> None:
        """See `Kernel`."""
        vectors = [each - x[0] for each in x[1:]] if self.differences else list(x)
        if self._gram is None:
            self._gram = Gram(len(vectors))
        self._gram.add(vectors)

    def end_look(self) -> None:
        """See `Kernel`."""
        gram = self._gram.matrix().numpy() if self._gram is not None else np.zeros((0, 0))
        self._found = [float(each) for each in self.coefficients(gram)] if gram.size else []

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """base + sum_i c_i (x_i - base), or sum_i c_i x_i."""
        assert self._found is not None
        found = self._found
        if not found:
            return x[0]
        if not self.differences:
            result = x[0].mul_(found[0])
            for coefficient, each in zip(found[1:], x[1:], strict=True):
                result.add_(each, alpha=coefficient)
            return result
        result = x[0].clone()
        for coefficient, each in zip(found, x[1:], strict=True):
            result.add_(each.sub_(x[0]), alpha=coefficient)
        return result

    def end(self) -> dict[str, Any]:
        """See `Kernel`."""
        self._gram = None
        return {"coefficients": self._found}


def row_dots(x_RC: Tensor, y_RC: Tensor) -> Tensor:
    """Inner products row by row, [R, 1]: each by itself, so that its bits do not depend on the others."""
    return torch.stack([torch.dot(a, b) for a, b in zip(x_RC, y_RC, strict=True)])[:, None]
