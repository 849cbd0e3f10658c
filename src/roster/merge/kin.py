"""Whether models look as if they were made of the base that is given: by a few of their weights, before all are read.

Weights of models that were trained apart have nothing to do with each other: over n of them the cosine is near 0, with
a spread of 1 / sqrt(n). Models that were made of one another stay far above that, however long they were trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from roster.errors import RosterError
from roster.merge.names import layer_of
from roster.weights import Operand, Output, Source

TENSORS, ELEMENTS = 8, 1 << 15
"""How many matrices are looked at, and how many of their first elements."""
FEWEST = 4096
"""Elements below which nothing is said."""
SPREADS = 4.0


def check_kin(outputs: Sequence[Output]) -> None:
    """Looks at matrices of layers in some outputs, whose first operand is the base and whose others are models of it.

    Raises:
        RosterError: one of the models is no more like the base than chance would have it.
    """
    matrices = [each for each in outputs if len(each.spec.shape) == 2 and layer_of(each.name) is not None]
    some = matrices[:: max(len(matrices) // TENSORS, 1)][:TENSORS]
    models: dict[int, tuple[Source, list[tuple[Operand, Operand]]]] = {}
    for output in some:
        base, *others = output.operands
        for each in others:
            if each.spec.dtype.is_floating_point and base.spec.dtype.is_floating_point:
                models.setdefault(id(each.source), (each.source, []))[1].append((base, each))
    for source, pairs in models.values():
        _check(source, pairs)


def _check(source: Source, pairs: Sequence[tuple[Operand, Operand]]) -> None:
    inner, squares, count = 0.0, [0.0, 0.0], 0
    for base, model in pairs:
        size = min(ELEMENTS, base.spec.numel)
        x, y = (each.source.read(each.tensor, 0, size).double() for each in (base, model))
        inner += float(x @ y)
        squares = [squares[0] + float(x @ x), squares[1] + float(y @ y)]
        count += size
    length = math.sqrt(squares[0] * squares[1])
    if count < FEWEST or not math.isfinite(inner) or not 0 < length < math.inf:
        return  # too few, nothing but zeros, or damaged, which is said where they are read
    if abs(inner / length) < SPREADS / math.sqrt(count):
        raise RosterError(
            f"{source.name!r} does not look as if it was made of {pairs[0][0].source.name!r}: the cosine of {count:,} "
            f"of their weights is {inner / length:+.4f}, as it is of models that have nothing to do with each other; "
            "give the base that it was trained from"
        )
