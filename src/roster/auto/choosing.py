"""Which place is read and which classifier is used: what cross-validation over the examples favours.

Whole wordings are held out where an adapter's examples have several (`roster.auto.wordings`). A place is as good as the
share of held-out examples that go to their own adapter plus the share of general prompts that are left to the base.
Among places as good, an earlier block wins: the pass over a prompt ends there.

Shape legend: N examples, G general prompts, X both, P places, D width, C classes, M = C + 1 with nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roster.auto.calibration import Calibration, calibrate
from roster.auto.classes import Classes, fit, held_out
from roster.auto.features import Place

FOLDS = 5
AS_GOOD = 0.005
"""Of the two shares together."""
PREFERRED = ("mean", "tail", "last")
"""Poolings, where all else is equal: the whole turn tells most of it, also in chats, which examples seldom are."""


@dataclass(frozen=True)
class Tried:
    """One candidate.

    Attributes:
        place: block and pooling.
        whiten: whether features are whitened.
        calibration: what cross-validation found.
    """

    place: Place
    whiten: bool
    calibration: Calibration

    @property
    def value(self) -> float:
        """Share of examples that reach their adapter, plus share of general prompts left to the base."""
        return self.calibration.reached + self.calibration.general_abstention


def try_all(
    features_NPD: Tensor,
    class_N: Tensor,
    fold_N: Sequence[int],
    general_GPD: Tensor,
    places: Sequence[Place],
    kinds: Sequence[bool],
) -> list[Tried]:
    """Every place with every kind of classifier."""
    return [
        Tried(place, whiten, validated(features_NPD[:, at], class_N, fold_N, general_GPD[:, at], whiten)[0])
        for at, place in enumerate(places)
        for whiten in kinds
    ]


def best(tried: Sequence[Tried]) -> Tried:
    """The candidate to use."""
    highest = max(each.value for each in tried)
    good = [each for each in tried if each.value >= highest - AS_GOOD]
    return min(good, key=lambda each: (each.place[0], -each.value, PREFERRED.index(each.place[1])))


def validated(
    features_NF: Tensor,
    class_N: Tensor,
    fold_N: Sequence[int],
    general_GF: Tensor,
    whiten: bool,
    share: float | None = None,
) -> tuple[Calibration, Tensor]:
    """What cross-validation finds, and the held-out scores [N, C] of the adapters' classes behind it."""
    scores_NM, general_GM = _held_out(features_NF, class_N, fold_N, general_GF, whiten)
    return calibrate(scores_NM, class_N, general_GM, share), scores_NM[:, :-1]


def item_by_item(features_NF: Tensor, class_N: Tensor, general_GF: Tensor, whiten: bool) -> Tensor:
    """Scores [N, C] of examples by classifiers that know other examples of the same wording."""
    seen = [0] * (int(class_N.max()) + 1)
    fold_N = []
    for number in class_N.tolist():
        fold_N.append(seen[number] % FOLDS)
        seen[number] += 1
    return _held_out(features_NF, class_N, fold_N, general_GF, whiten)[0][:, :-1]


def _held_out(
    features_NF: Tensor, class_N: Tensor, fold_N: Sequence[int], general_GF: Tensor, whiten: bool
) -> tuple[Tensor, Tensor]:
    """Held-out scores of examples [N, M] and of general prompts [G, M]."""
    all_XF, class_X, count = with_nobody(features_NF, class_N, general_GF)
    fold_X = [*fold_N, *(at % FOLDS for at in range(len(general_GF)))]
    scores_XM, _ = held_out(all_XF, class_X, fold_X, count, whiten)
    return scores_XM[: len(class_N)], scores_XM[len(class_N) :]


def fitted(features_NF: Tensor, class_N: Tensor, general_GF: Tensor, whiten: bool) -> Classes:
    """The classifier, with nobody's class last."""
    return fit(*with_nobody(features_NF, class_N, general_GF), whiten)


def with_nobody(features_NF: Tensor, class_N: Tensor, general_GF: Tensor) -> tuple[Tensor, Tensor, int]:
    """Features and classes with the general prompts as the last class, and how many classes there are then."""
    nobody = int(class_N.max()) + 1
    class_X = torch.cat([class_N, class_N.new_full((len(general_GF),), nobody)])
    return torch.cat([features_NF, general_GF]), class_X, nobody + 1
