"""The k-th largest of numbers that come in pieces, exactly, without keeping them.

A look at a sample brackets the value; a second look counts what lies above the bracket and keeps what lies inside. When
the sample misled (it practically never does), a wider bracket and another look follow. The value is a property of the
numbers alone: where pieces are cut cannot change it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from torch import Tensor

_STRIDE = 61  # odd, so that the columns of a matrix take turns
_SAMPLE = 4_000_000
_SMALL = 1 << 18
_KEPT = 1 << 20
_SIGMAS = 6.0

Floats = npt.NDArray[np.floating]


class Largest:
    """Asks for looks (`wants_look`), takes pieces (`add`, `end_look`), and then knows `value`.

    Attributes:
        value: the k-th largest; infinity for k = 0, so that nothing is as large. NaN before it is known.
    """

    def __init__(self, k: int, total: int) -> None:
        self.k, self.total = k, total
        self.value = math.inf if k <= 0 else 0.0 if k >= total else math.nan
        self._low, self._high = -math.inf, math.inf
        self._sampling = total > _SMALL
        self._stride = max(_STRIDE, total // _SAMPLE | 1)
        self._forget()

    def wants_look(self) -> bool:
        """Whether all pieces must be shown (again)."""
        return math.isnan(self.value)

    def add(self, x: Tensor, start: int) -> None:
        """One piece, flat and not negative; `start` is its place, which only the sample depends on."""
        values: Floats = x.numpy()
        if self._sampling:
            self._kept.append(values[-start % self._stride :: self._stride].copy())
            return
        if self._high < math.inf:
            self._above += int(np.count_nonzero(values > self._high))
        inside = values[np.flatnonzero((values >= self._low) & (values <= self._high))]
        self._kept.append(inside)
        self._size += inside.size
        if self._size > max(_KEPT, 2 * self._values.size):
            self._compress()

    def end_look(self) -> None:
        """All pieces were shown."""
        if self._sampling:
            self._bracket()
        else:
            self._compress()
            self._conclude()
        self._forget()

    def _forget(self) -> None:
        self._kept: list[Floats] = []
        self._values: Floats = np.empty(0, np.float32)
        self._counts: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._size, self._above = 0, 0

    def _bracket(self) -> None:
        self._sampling = False
        sample = np.sort(np.concatenate(self._kept))[::-1]
        share = self.k / self.total
        middle = share * sample.size
        margin = _SIGMAS * math.sqrt(max(sample.size * share * (1 - share), 1.0)) + 2
        if middle - margin >= 0:
            self._high = float(sample[int(middle - margin)])
        if middle + margin < sample.size:
            self._low = float(sample[int(middle + margin)])

    def _compress(self) -> None:
        """Keeps each value once with its count: the differences of bfloat16 numbers are few."""
        new, counts = np.unique(np.concatenate([*self._kept, self._values[:0]]), return_counts=True)
        values = np.concatenate([self._values, new])
        self._values, where = np.unique(values, return_inverse=True)
        self._counts = np.bincount(where, np.concatenate([self._counts, counts]), self._values.size).astype(np.int64)
        self._kept, self._size = [], self._values.size

    def _conclude(self) -> None:
        needed = self.k - self._above
        upto = np.cumsum(self._counts[::-1])
        if needed <= 0:
            self._low, self._high = self._high, math.inf
        elif upto.size == 0 or needed > upto[-1]:
            self._low, self._high = -math.inf, self._low
        else:
            self.value = float(self._values[::-1][int(np.searchsorted(upto, needed))])
