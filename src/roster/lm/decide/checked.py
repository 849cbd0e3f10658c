"""SelfChecked: a small model's answer, or the large one's where the small one's checks of itself ask for it.

The confidence is the share of checks that agreed with the answer. Which shares ask for the large model is learned
(`roster.lm.verification`), and they need not be the lowest: what looks worst may be beyond both models.

Source: Aggarwal et al., 2023, "AutoMix: Automatically Mixing Language Models", arXiv:2310.12963.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.decide.cascade import InTurn
from roster.lm.estimate.base import Estimates
from roster.lm.records import Matrix


class SelfChecked(InTurn):
    """Two models; the second is asked at some steps of the first one's share of agreeing checks.

    Args:
        order: small and large.
        asks: for each of V steps of the share, from 0 to 1, whether the large model is asked.
    """

    def __init__(self, order: Sequence[str], asks: Sequence[bool]):
        super().__init__(order)
        if len(self.order) != 2 or len(asks) < 2:
            raise RosterError("a self-checked answer has one model behind it, and a share of checks at least two steps")
        self.asks = tuple(bool(each) for each in asks)

    def asks_on(self, place: int, confidence_N: Matrix) -> NDArray[np.bool_]:
        """See `InTurn.asks_on`."""
        return np.array(self.asks)[steps(confidence_N, len(self.asks) - 1)]

    def next_below(self, estimates: Estimates, asked: Sequence[int], choice: int) -> float | None:
        """None for the large model. What follows the small one is not told by one threshold.

        Raises:
            RosterError: the small model is chosen: nobody here can put its checks to it.
        """
        if estimates.models[choice] != self.order[0]:
            return None
        raise RosterError(
            "an answer that its own model checks cannot be had from one call; `roster.lm.verification` puts the checks"
        )

    def sweep(self, estimates: Estimates) -> Sequence[SelfChecked]:
        """This one alone: others are learned with the shares (`roster.lm.self_checks`)."""
        return [self]


def steps(share_N: Matrix, bins: int) -> NDArray[np.int64]:
    """The nearest of the steps 0, 1/bins, ..., 1 of each share, [N]."""
    return np.floor(np.asarray(share_N) * bins + 0.5).astype(np.int64).clip(0, bins)
