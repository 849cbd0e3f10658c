"""Replay: a learner over recorded scores as if they came one by one, seeing only the score of the model it chose.

Every prompt's recorded scores of all models are there to judge by (regret against any fixed or contextual choice),
none but the chosen one's is shown to the learner. Shape legend: N prompts, M arms (models), D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.records import Matrix


class Learner(Protocol):
    """Whatever chooses an arm and learns from what the choice gained."""

    def choose(self, x_D: NDArray[Any]) -> int:
        """The arm for a prompt's features."""
        ...

    def learn(self, x_D: NDArray[Any], arm: int, gain: float) -> None:
        """The gain of the arm that was chosen; what the others would have gained stays unknown."""
        ...


@dataclass(frozen=True)
class Replayed:
    """What a learner did.

    Attributes:
        choice_N: the arm chosen at each step.
        gain_N: what it gained.
    """

    choice_N: NDArray[np.int64]
    gain_N: Matrix

    def regret(self, best_N: Matrix) -> float:
        """Total gain that was missed against a yardstick's gain per step."""
        return float((best_N - self.gain_N).sum())


def replay(learner: Learner, x_ND: NDArray[Any], gain_NM: Matrix) -> Replayed:
    """Steps through the rows in their order.

    Raises:
        RosterError: rows do not match, or the gain of some cell is not known: a learner must be free to choose it.
    """
    if len(x_ND) != len(gain_NM):
        raise RosterError(f"a replay needs features and gains of the same prompts, not {len(x_ND)} and {len(gain_NM)}")
    if not np.isfinite(gain_NM).all():
        raise RosterError("a replay needs every cell: leave out the prompts or the models that lack some")
    choice_N, gain_N = np.empty(len(gain_NM), dtype=np.int64), np.empty(len(gain_NM))
    for n, (x_D, gain_M) in enumerate(zip(x_ND, gain_NM, strict=True)):
        choice_N[n] = learner.choose(x_D)
        gain_N[n] = gain_M[choice_N[n]]
        learner.learn(x_D, int(choice_N[n]), float(gain_N[n]))
    return Replayed(choice_N, gain_N)
