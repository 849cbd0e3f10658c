"""What is told of a tensor that is made of several: gathered while it is written, from the pieces that are read anyway.

With a base everything is of the differences to it; without one, norms are of the inputs' differences to the result, and
cosines and signs of the weights themselves. The result is looked at as it is stored, rounding included. Sums are taken
in blocks from the tensor's start, so that figures depend on pieces and kills as little as the weights do.

Held besides the pieces: their copies and a few of their size, so less than a MiB for each operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from roster.weights.rule import Gram, Output, block_of

DIGITS = 6
"""Significant digits of a figure."""


class Figures:
    """Of one tensor; `before` and `after` see each piece once, in order.

    Args:
        output: what is written.
        based: whether the first operand is the base.
        count: how many operands are models, the base among them; what comes after them is not looked at.
    """

    def __init__(self, output: Output, based: bool, count: int) -> None:
        self._based, self._count = based, count
        self._models = count - based
        self._numel, self._dtype = output.spec.numel, output.spec.dtype
        block = block_of(output.kernel.unit(output.spec.shape))
        self._inputs, self._results = Gram(self._models, block), [Gram(1, block) for _ in range(self._models + 1)]
        self._toward = [0.0] * self._models
        self._block = block
        self._conflicts = 0
        self._changed = [0] * (self._models + 1)
        self._seen: list[Tensor] = []

    def before(self, x: Sequence[Tensor], start: int) -> None:
        """A piece of the operands, which the kernel may change afterwards."""
        x = x[: self._count]
        if not self._based:
            self._seen = [each.clone() for each in x]
            self._look(self._seen)
            return
        differences = [each - x[0] for each in x[1:]]
        self._seen = [x[0].clone(), *differences]
        self._look(differences)
        for number, each in enumerate(differences):
            self._changed[number] += int(np.count_nonzero(each.numpy()))

    def after(self, result: Tensor, start: int) -> None:
        """The same piece of the result, in its final type."""
        stored = result.to(self._seen[0].dtype)
        if not self._based:
            for gram, each in zip(self._results[:-1], self._seen, strict=True):
                gram.add([each.sub_(stored)])
            return
        made = stored - self._seen[0]
        self._results[-1].add([made])
        self._changed[-1] += int(np.count_nonzero(made.numpy()))
        for number, each in enumerate(self._seen[1:]):
            pairs = zip(torch.split(each, self._block), torch.split(made, self._block), strict=True)
            self._toward[number] += sum(torch.dot(a, b).item() for a, b in pairs)

    def end(self) -> dict[str, Any]:
        """By name: `norms` of the inputs, `cosines` between them, `conflicts` (share of elements where some are above 0
        and some below); with a base also `norm` and `toward` (the result's cosines to the inputs), and `changed`, the
        share of elements that differ from the base, of each input and of the result.
        """
        self._seen = []
        inner = self._inputs.matrix().numpy()
        told: dict[str, Any] = {"cosines": _cosines(inner), "conflicts": _short(self._conflicts / max(self._numel, 1))}
        if not self._based:
            return {"norms": [_root(float(each.matrix())) for each in self._results[:-1]]} | told
        own = np.sqrt(np.diag(inner))
        made = float(self._results[-1].matrix()) ** 0.5
        toward = [_ratio(dot, norm * made) for dot, norm in zip(self._toward, own, strict=True)]
        changed = [_short(each / max(self._numel, 1)) for each in self._changed]
        return {
            "norms": [_short(each) for each in own],
            "norm": _short(made),
            "toward": toward,
            "changed": changed,
        } | told

    def _look(self, vectors: Sequence[Tensor]) -> None:
        self._inputs.add(vectors)
        if len(vectors) > 1:
            high, low = vectors[0], vectors[0]
            for each in vectors[1:]:
                high, low = torch.maximum(high, each), torch.minimum(low, each)
            self._conflicts += int(np.count_nonzero((high.numpy() > 0) & (low.numpy() < 0)))


def whole(figures: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    """The figures of all tensors together.

    Args:
        figures: of each, all of one kind.
        sizes: their numbers of elements.
    """
    if not figures:
        return {}
    norms_TM = np.array([each["norms"] for each in figures], dtype=float)
    share_T = np.array(sizes, dtype=float) / max(sum(sizes), 1)
    length_M = np.sqrt((norms_TM**2).sum(0))
    told: dict[str, Any] = {
        "norms": [_short(each) for each in length_M],
        "conflicts": _short(float(share_T @ np.array([each["conflicts"] for each in figures]))),
    }
    if "norm" not in figures[0]:
        return told
    norm_T = np.array([each["norm"] for each in figures], dtype=float)
    norm = float(np.sqrt((norm_T**2).sum()))
    inner = sum((np.outer(n, n) * _numbers(each["cosines"]) for n, each in zip(norms_TM, figures, strict=True)))
    toward = sum(n * m * _numbers(each["toward"]) for n, m, each in zip(norms_TM, norm_T, figures, strict=True))
    told["cosines"] = _cosines(np.asarray(inner))
    told["norm"] = _short(norm)
    told["toward"] = [_ratio(float(a), float(b) * norm) for a, b in zip(np.asarray(toward), length_M, strict=True)]
    told["changed"] = [_short(each) for each in share_T @ np.array([each["changed"] for each in figures])]
    kept = [each.get("kept") for each in figures]
    if all(each is not None for each in kept):
        entries_TM = share_T[:, None] * np.array([each["changed"][:-1] for each in figures])
        told["kept"] = [
            _ratio(float(a), float(b))
            for a, b in zip((entries_TM * _numbers(kept)).sum(0), entries_TM.sum(0), strict=True)
        ]
    return told


def _numbers(values: Any) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = np.nan_to_num(np.array(values, dtype=float))
    return found


def _cosines(inner: npt.NDArray[np.float64]) -> list[list[float | None]]:
    norms = np.sqrt(np.diag(inner))
    return [
        [_ratio(float(inner[i, j]), float(norms[i] * norms[j])) for j in range(len(inner))] for i in range(len(inner))
    ]


def _ratio(a: float, b: float) -> float | None:
    """None where there is none: what has no length has no direction."""
    return _short(a / b) if b > 0 else None


def _root(square: float) -> float:
    return _short(square**0.5)


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
