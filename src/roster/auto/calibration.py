"""When to believe a choice: a temperature for probabilities, a threshold for leaving a prompt to the base, a margin.

All of it comes from held-out scores of the examples themselves. What belongs to nobody is played by general prompts
that come along, and by every adapter's examples with that adapter left out.

Shape legend: N examples, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FALSE_ABSTENTION = 0.02
"""The largest share of adapters' own prompts that may go to the base."""
_GENERAL = 0.98
"""The share of general prompts that should."""
_TEMPERATURES = torch.logspace(-3, 0, 61)


@dataclass(frozen=True)
class Calibration:
    """What turns cosines into a decision.

    Attributes:
        temperature: of the softmax over classes.
        threshold: a prompt whose best cosine is lower goes to the base.
        margin: where the second best class has at least this probability, both serve; above 0.5: never.
        false_abstention: share of held-out examples below the threshold.
        general_abstention: of the general prompts.
        strange_abstention: of examples scored without their own class.
        accuracy: share of held-out examples whose own class scores best.
        reached: share of those whose own class scores best, and high enough.
    """

    temperature: float
    threshold: float
    margin: float
    false_abstention: float
    general_abstention: float
    strange_abstention: float
    accuracy: float
    reached: float


def calibrate(scores_NC: Tensor, class_N: Tensor, general_GC: Tensor, share: float | None) -> Calibration:
    """Calibrates on held-out scores.

    Args:
        scores_NC: of the examples.
        class_N: of each.
        general_GC: scores of general prompts, by the same or other folds' classifiers.
        share: of the margin: None never lets two serve.
    """
    own_N = scores_NC.gather(1, class_N[:, None])[:, 0]
    best_N = scores_NC.amax(1)
    strange_N = scores_NC.scatter(1, class_N[:, None], -1.0).amax(1)
    general_G = general_GC.amax(1)
    threshold = _threshold(own_N, general_G)
    right_N = scores_NC.argmax(1) == class_N
    return Calibration(
        temperature=temperature_of(scores_NC, class_N),
        threshold=threshold,
        margin=1.0 if share is None else share,
        false_abstention=_below(best_N, threshold),
        general_abstention=_below(general_G, threshold),
        strange_abstention=_below(strange_N, threshold) if scores_NC.shape[1] > 1 else 1.0,
        accuracy=float(right_N.float().mean()),
        reached=float((right_N & (best_N >= threshold)).float().mean()),
    )


def _threshold(own_N: Tensor, general_G: Tensor) -> float:
    """Half way between what is nobody's and what is somebody's, where they lie apart; else as high as is allowed."""
    highest = float(own_N.quantile(FALSE_ABSTENTION))
    if not len(general_G):
        return highest
    lowest = float(general_G.quantile(_GENERAL))
    return min(highest, (highest + lowest) / 2) if lowest < highest else highest


def _below(scores_N: Tensor, threshold: float) -> float:
    return float((scores_N < threshold).float().mean()) if len(scores_N) else 1.0


def temperature_of(scores_NC: Tensor, class_N: Tensor) -> float:
    """The temperature that makes the examples' own classes most likely (Guo et al., 2017), from a fine grid."""
    losses = torch.stack([F.cross_entropy(scores_NC / each, class_N) for each in _TEMPERATURES])
    return float(_TEMPERATURES[losses.argmin()])
