"""Settings of a router's dial, and the mixes of two of them: chosen on some prompts, held to a cost on others.

Which settings are worth having is a question of quality, answered on validation prompts (`corners`). The share of a mix
follows from costs alone, which a deployment sees without labels.

Shape legend: L settings of a dial, N prompts, P settings worth having (costs and qualities rising), B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roster.lm.decide import Mix, Rule
from roster.lm.records import Matrix


@dataclass(frozen=True)
class Setting:
    """A setting, or two of them and a coin.

    Attributes:
        first, second: places on the dial.
        share: of the prompts that `second` decides.
    """

    first: int
    second: int
    share: float = 0.0

    def of(self, value_LN: Matrix) -> Matrix:
        """What it gives per prompt, in expectation over the coin, from what every setting gave."""
        return np.asarray((1 - self.share) * value_LN[self.first] + self.share * value_LN[self.second])

    def rule(self, rules: Sequence[Rule]) -> Rule:
        """As a decision rule, from those of the dial."""
        if self.share == 0:
            return rules[self.first]
        return Mix(rules[self.first], rules[self.second], self.share)


def within(corner_P: NDArray[np.int64], cost_L: Matrix, budget: float, mixes: bool = True) -> Setting | None:
    """The furthest point of the way through the corners that costs at most the budget.

    The way ends before the first corner beyond the budget, also if later ones were cheaper. Costs may be of other
    prompts than those on which the corners were found.

    Returns:
        None where the first corner is too dear.
    """
    slack = 1e-12 * abs(budget)
    beyond = np.flatnonzero(cost_L[corner_P] > budget + slack)
    if len(beyond) == 0:
        return Setting(int(corner_P[-1]), int(corner_P[-1]))
    if beyond[0] == 0:
        return None
    first, second = int(corner_P[beyond[0] - 1]), int(corner_P[beyond[0]])
    # A hair less, so that rounding does not spend more than there is.
    share = (budget - cost_L[first]) / (cost_L[second] - cost_L[first]) * (1 - 1e-12)
    return Setting(first, second, float(share.clip(0, 1))) if mixes else Setting(first, first)


def above(corner_P: NDArray[np.int64], quality_L: Matrix, floor: float, mixes: bool = True) -> Setting | None:
    """The first point of the way through the corners whose quality is at least the floor; None where none is."""
    reached = np.flatnonzero(quality_L[corner_P] >= floor)
    if len(reached) == 0:
        return None
    at = int(corner_P[reached[0]])
    if reached[0] == 0 or not mixes:
        return Setting(at, at)
    before = int(corner_P[reached[0] - 1])
    share = (floor - quality_L[before]) / (quality_L[at] - quality_L[before]) * (1 + 1e-12)
    return Setting(before, at, float(share)) if share < 1 else Setting(at, at)


def cost_to_reach(cost_BP: Matrix, quality_BP: Matrix, target_B: Matrix, mixes: bool = True) -> Matrix:
    """The cost of `above` in every resample; infinite where the target is not reached."""
    reached_BP = quality_BP >= target_B[:, None] - 1e-12
    at_B = np.arange(len(target_B))
    here_B = reached_BP.argmax(1)
    cost_B = cost_BP[at_B, here_B]
    before_B = (here_B - 1).clip(0)
    rise_B = quality_BP[at_B, here_B] - quality_BP[at_B, before_B]
    step_B = (here_B > 0) & (rise_B > 0) & mixes
    share_B = (target_B - quality_BP[at_B, before_B]) / np.where(step_B, rise_B, 1.0)
    mixed_B = cost_BP[at_B, before_B] + share_B.clip(0, 1) * (cost_B - cost_BP[at_B, before_B])
    return np.where(reached_BP.any(1), np.where(step_B, mixed_B, cost_B), np.inf)
