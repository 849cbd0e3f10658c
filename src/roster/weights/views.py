"""Views: tensors of other shapes than the ones on disk, made of them while they are read.

A `Views` is a source; each of its tensors is one of: rows of a tensor in any order (`Rows`), columns (`Columns`), or
tensors laid on top of each other (`Stack`, as fused experts are), or a piece of one (`Part`, as one of fused experts
is). A slice of consecutive rows is `Rows` too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from roster.errors import RosterError
from roster.header import Spec
from roster.weights.rule import Operand
from roster.weights.source import Source


class View(Protocol):
    """One tensor that is made while it is read."""

    @property
    def spec(self) -> Spec:
        """Its type and shape."""

    @property
    def of(self) -> tuple[Operand, ...]:
        """What it is made of."""

    def read(self, start: int, stop: int) -> Tensor:
        """Elements [start, stop), flat."""

    def key(self) -> object:
        """What tells it from another view of the same operands."""


class Views:
    """A source of views, by their new names."""

    def __init__(self, name: str, views: Mapping[str, View]) -> None:
        self.name = name
        self.views = dict(views)
        self._specs = {each: view.spec for each, view in self.views.items()}

    @property
    def specs(self) -> Mapping[str, Spec]:
        """By name."""
        return self._specs

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """See `Source.read`."""
        return self.views[name].read(start, stop)

    def used(self) -> set[tuple[int, str]]:
        """(id of the source, tensor) that the views stand on, through views of views."""
        found = {(id(operand.source), operand.tensor) for view in self.views.values() for operand in view.of}
        below = {id(each.source): each.source for view in self.views.values() for each in view.of}
        return found.union(*(each.used() for each in below.values() if isinstance(each, Views)))

    def fingerprint(self) -> str:
        """Of the views and of what they stand on."""
        sources: dict[int, Source] = {id(each.source): each.source for view in self.views.values() for each in view.of}
        keys = [(name, [each.tensor for each in view.of], view.key()) for name, view in self.views.items()]
        return repr((keys, [source.fingerprint() for source in sources.values()]))


class Rows:
    """Some slices of a tensor along its first axis, in the order given."""

    def __init__(self, operand: Operand, rows: Sequence[int]) -> None:
        count = operand.spec.shape[0]
        if any(not 0 <= row < count for row in rows):
            raise RosterError(f"{operand.tensor!r} has {count} rows; not all of the asked ones are there")
        self.of = (operand,)
        self.rows = list(rows)
        self.spec = Spec(operand.spec.dtype, (len(self.rows), *operand.spec.shape[1:]))
        self._width = operand.spec.numel // max(count, 1)

    def read(self, start: int, stop: int) -> Tensor:
        """Consecutive rows are read in one go."""
        operand, width = self.of[0], self._width
        parts, at = [], start
        while at < stop:
            first, inside = divmod(at, width)
            last = first
            while (last + 1) * width < stop and self.rows[last + 1] == self.rows[last] + 1:
                last += 1
            upto = min((last + 1) * width, stop)
            begin = self.rows[first] * width + inside
            parts.append(operand.source.read(operand.tensor, begin, begin + upto - at))
            at = upto
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0, dtype=self.spec.dtype)

    def key(self) -> object:
        """The rows."""
        return ("rows", self.rows)


class Columns:
    """Some columns of a matrix (or of each matrix of a stack), in the order given."""

    def __init__(self, operand: Operand, columns: Sequence[int]) -> None:
        width = operand.spec.shape[-1]
        if any(not 0 <= column < width for column in columns):
            raise RosterError(f"{operand.tensor!r} has {width} columns; not all of the asked ones are there")
        self.of = (operand,)
        self.columns = torch.tensor(list(columns))
        self.spec = Spec(operand.spec.dtype, (*operand.spec.shape[:-1], len(columns)))
        self._width = width

    def read(self, start: int, stop: int) -> Tensor:
        """Whole rows are read, and cut."""
        operand, new, width = self.of[0], len(self.columns), self._width
        first, last = start // new, -(-stop // new)
        rows = operand.source.read(operand.tensor, first * width, last * width).view(-1, width)
        return rows[:, self.columns].flatten()[start - first * new : stop - first * new]

    def key(self) -> object:
        """The columns."""
        return ("columns", self.columns.tolist())


class Part:
    """Consecutive elements of a tensor in a shape of their own: one matrix of a stack, or some of its rows."""

    def __init__(self, operand: Operand, start: int, shape: Sequence[int]) -> None:
        self.of = (operand,)
        self.start = start
        self.spec = Spec(operand.spec.dtype, tuple(shape))
        if not 0 <= start <= operand.spec.numel - self.spec.numel:
            raise RosterError(f"{operand.tensor!r} is {operand.spec}: {self.spec} from element {start} on is not in it")

    def read(self, start: int, stop: int) -> Tensor:
        """From where it lies."""
        operand = self.of[0]
        return operand.source.read(operand.tensor, self.start + start, self.start + stop)

    def key(self) -> object:
        """Where it starts."""
        return ("part", self.start, self.spec.shape)


class Stack:
    """Tensors of one shape along a new first axis; or, with `new_axis=False`, one after the other along the first."""

    def __init__(self, operands: Sequence[Operand], new_axis: bool = True) -> None:
        first = operands[0].spec
        trailing = first.shape if new_axis else first.shape[1:]
        for each in operands:
            if (each.spec.shape if new_axis else each.spec.shape[1:]) != trailing or each.spec.dtype != first.dtype:
                raise RosterError(
                    f"{each.tensor!r} of {each.source.name!r} is {each.spec}: it does not stack with "
                    f"{operands[0].tensor!r} of {operands[0].source.name!r}, {first}"
                )
        self.of = tuple(operands)
        length = len(operands) if new_axis else sum(each.spec.shape[0] for each in operands)
        self.spec = Spec(first.dtype, (length, *trailing))
        self._starts = [0, *accumulate(each.spec.numel for each in operands)]
        self._new_axis = new_axis

    def read(self, start: int, stop: int) -> Tensor:
        """Each part from its own place."""
        parts = []
        at = start
        while at < stop:
            number = bisect_right(self._starts, at) - 1
            upto = min(self._starts[number + 1], stop)
            offset, operand = self._starts[number], self.of[number]
            parts.append(operand.source.read(operand.tensor, at - offset, upto - offset))
            at = upto
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0, dtype=self.spec.dtype)

    def key(self) -> object:
        """How they are laid."""
        return ("stack", self._new_axis)
