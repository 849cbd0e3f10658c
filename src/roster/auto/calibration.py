"""When to believe a choice: a temperature for probabilities, a threshold for leaving a prompt to the base, a margin.

What counts is a prompt's *lead*: by how much the best adapter's score is above nobody's, who is a class like any
other and known by general prompts. A lead of 0 is where linear discriminant analysis itself would draw the line; a bare
cosine does not tell a known skill in new words from small talk (docs/results/auto.md). What resembles neither adapters
nor general prompts shows in a low cosine: there is a floor, far enough below the examples' own for new wordings. All of
it comes from held-out scores.

Shape legend: N examples, G general prompts, C classes, M = C + 1 with nobody's class last.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FALSE_ABSTENTION = 0.02
"""The largest share of adapters' own prompts that may go to the base."""
_GENERAL = 0.98
"""The share of general prompts that should."""
FLOOR = 0.5
"""Of the cosine that all but few of the held-out examples reach."""
_TEMPERATURES = torch.logspace(-3, 0, 61)
NEVER = 1.0
"""A margin that no second best reaches."""


@dataclass(frozen=True)
class Calibration:
    """What turns scores into a decision.

    Attributes:
        temperature: of the softmax over all classes, nobody's among them.
        threshold: a prompt whose lead is smaller goes to the base.
        floor: so does a prompt whose best cosine is smaller.
        margin: where the second best adapter has at least this probability, both serve.
        false_abstention: share of held-out examples that are left to the base.
        general_abstention: of held-out general prompts.
        strange_abstention: of examples scored without their own class.
        accuracy: share of held-out examples whose own class is the best of the adapters'.
        reached: share of those whose own class is, with a lead that is believed.
    """

    temperature: float
    threshold: float
    floor: float
    margin: float
    false_abstention: float
    general_abstention: float
    strange_abstention: float
    accuracy: float
    reached: float


def lead(scores_NM: Tensor) -> Tensor:
    """By how much the best adapter is before nobody, [N]."""
    return scores_NM[:, :-1].amax(1) - scores_NM[:, -1]


def calibrate(scores_NM: Tensor, class_N: Tensor, general_GM: Tensor, share: float | None) -> Calibration:
    """Calibrates on held-out scores.

    Args:
        scores_NM: of the examples.
        class_N: of each.
        general_GM: of general prompts.
        share: of the margin: None never lets two serve.
    """
    own_N = scores_NM.gather(1, class_N[:, None])[:, 0] - scores_NM[:, -1]
    threshold = _threshold(own_N, lead(general_GM))
    floor = FLOOR * float(scores_NM.gather(1, class_N[:, None]).quantile(FALSE_ABSTENTION))
    right_N = scores_NM[:, :-1].argmax(1) == class_N
    left_N, left_G = (_left(each, threshold, floor) for each in (scores_NM, general_GM))
    strange_N = _left(scores_NM.scatter(1, class_N[:, None], -1.0), threshold, floor)
    nobody_G = class_N.new_full((len(general_GM),), scores_NM.shape[1] - 1)
    return Calibration(
        temperature=temperature_of(torch.cat([scores_NM, general_GM]), torch.cat([class_N, nobody_G])),
        threshold=threshold,
        floor=floor,
        margin=NEVER if share is None else share,
        false_abstention=float(left_N.float().mean()),
        general_abstention=float(left_G.float().mean()),
        strange_abstention=float(strange_N.float().mean()) if scores_NM.shape[1] > 2 else 1.0,
        accuracy=float(right_N.float().mean()),
        reached=float((right_N & ~left_N).float().mean()),
    )


def _threshold(own_N: Tensor, lead_G: Tensor) -> float:
    """0, or as near to it as both sides allow; the adapters' own prompts come first."""
    highest = float(own_N.quantile(FALSE_ABSTENTION))
    lowest = float(lead_G.quantile(_GENERAL))
    return min(highest, max(lowest, 0.0))


def _left(scores_NM: Tensor, threshold: float, floor: float) -> Tensor:
    """Which prompts are left to the base, [N]."""
    return (lead(scores_NM) < threshold) | (scores_NM[:, :-1].amax(1) < floor)


def temperature_of(scores_NM: Tensor, class_N: Tensor) -> float:
    """The temperature that makes the examples' own classes most likely (Guo et al., 2017), from a fine grid.

    The loss is convex in the inverse temperature, so that it falls and then rises along the grid: a tenth of its points
    tell where the lowest is.
    """

    @functools.cache
    def loss(at: int) -> float:
        return float(F.cross_entropy(scores_NM / _TEMPERATURES[at], class_N))

    low, high = 0, len(_TEMPERATURES) - 1
    while low < high:
        middle = (low + high) // 2
        if loss(middle) <= loss(middle + 1):
            high = middle
        else:
            low = middle + 1
    return float(_TEMPERATURES[low])
