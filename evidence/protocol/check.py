"""A check: a declaration and the contenders that it names, as functions of a draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evidence.protocol.declaration import Declaration
from roster.errors import RosterError

APART = 10_000
"""Between the luck of a run and that of its repetition in the null."""


@dataclass(frozen=True)
class Draw:
    """Which run of a contender.

    Attributes:
        ground: seed of what all contenders of a pair share: tasks, data, a base.
        luck: seed of what a repetition draws anew: initial weights, batches, sampling.
        short: a few steps only, to see that it runs; the statistic means nothing.
    """

    ground: int
    luck: int
    short: bool = False

    def steps(self, count: int) -> int:
        """So many, or hardly any when the run is a short one."""
        return max(2, count // 100) if self.short else count


Contender = Callable[[Draw], float]


@dataclass(frozen=True)
class Check:
    """A declaration with what it declares.

    Attributes:
        declaration: what is promised.
        contenders: by the names that the declaration gives them; each returns the statistic of one run.
    """

    declaration: Declaration
    contenders: Mapping[str, Contender]

    def __post_init__(self) -> None:
        if set(self.contenders) != set(self.declaration.contenders):
            raise RosterError(f"check {self.declaration.name!r}: contenders are not those that it declares")

    def draws(self) -> list[tuple[str, Draw]]:
        """Every run that the verdict needs: each contender at each seed, and the method once more for the null."""
        pairs, runs = self.declaration.pairs, []
        for seed in range(self.declaration.seeds):
            runs += [(name, Draw(seed, seed)) for name in self.contenders]
            runs.append((pairs.method, Draw(seed, seed + APART)))
        return runs


def make_check(*, contenders: Mapping[str, tuple[str, Contender]], **declared: Any) -> Check:
    """A check whose declaration and contenders are written in one place.

    Args:
        contenders: what each is in words, and the function, by name.
        declared: the declaration's other fields.
    """
    words = {name: what for name, (what, _) in contenders.items()}
    return Check(Declaration(contenders=words, **declared), {name: run for name, (_, run) in contenders.items()})
