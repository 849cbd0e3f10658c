"""What a predictor is: it names experts that will be needed, before they are; a cache reads them ahead.

Predictors never change what a model computes. The engine and the simulator ask them at the same moments with the same
facts, so that what a simulation says of one is what it does while a model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from roster.offload.layout import Key

Votes = Mapping[int, int]
"""Tokens by expert; experts that are as good come in the order of their rank."""


@dataclass(frozen=True)
class Moment:
    """A layer has decided, and has not yet computed.

    Attributes:
        layer: its number among the layers with experts.
        votes: its tokens by expert.
        next_gate: the next layer's gate on this layer's input: tokens by expert; None where that is not known.
    """

    layer: int
    votes: Votes
    next_gate: Callable[[], Votes] | None = None


class Predictor(Protocol):
    """Called in the order of a model's work, from one thread at a time."""

    def start(self, ids_BS: Sequence[Sequence[int]], new: bool) -> list[Key]:
        """A forward call begins.

        Args:
            ids_BS: its token ids, row by row; empty rows where they are not known.
            new: whether it begins new sequences, or continues those of the call before.

        Returns:
            Experts of any layer, the most urgent first.
        """

    def after(self, moment: Moment) -> list[Key]:
        """A layer has decided; experts of later layers, the most urgent first."""


def ranked(votes: Votes) -> list[int]:
    """Experts by their votes, the most first."""
    return sorted(votes, key=lambda expert: -votes[expert])
