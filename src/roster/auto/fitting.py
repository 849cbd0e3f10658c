"""From a library and its example prompts to what a judge knows.

The base reads every example once. Where and how features are taken is chosen on the examples of at most `SAMPLE`
adapters; those of all others are then read at the chosen place only.

Shape legend: N examples, G general prompts, P places, D width, C classes, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from roster.auto.calibration import Calibration
from roster.auto.choosing import FOLDS, Tried, best, fitted, item_by_item, try_all, validated
from roster.auto.classes import Classes
from roster.auto.duels import champions
from roster.auto.features import POOLINGS, Place, features_of
from roster.auto.generic import GENERIC
from roster.auto.groups import alike, confused
from roster.auto.judge import Knowledge
from roster.auto.settings import Settings
from roster.auto.turns import NO_TOKEN, header_of
from roster.auto.wordings import folds
from roster.library import Library
from roster.prompts import Prompt, Rendering
from roster.recipes.needs import check_examples
from roster.routed.taps import blocks_of

SAMPLE = 64
Tick = Callable[[int], None]
Read = Callable[[Sequence[Prompt], Sequence[Place], Tick], Tensor]
"""Features [N, P, D] of prompts at places; its last argument is told how many have just been read."""


@dataclass(frozen=True)
class Examples:
    """The example prompts of a library, one after the other.

    Attributes:
        prompts: N of them.
        expert_N, index_N: whose each is, and its number on the card.
    """

    prompts: list[Prompt]
    expert_N: Tensor
    index_N: Tensor

    @classmethod
    def of(cls, library: Library) -> Examples:
        """Those on the cards.

        Raises:
            RosterError: an expert without any.
        """
        check_examples(library, "auto")
        owned = [
            (e, i, prompt) for e, name in enumerate(library) for i, prompt in enumerate(library[name].card.examples)
        ]
        return cls(
            [p for _, _, p in owned], torch.tensor([e for e, _, _ in owned]), torch.tensor([i for _, i, _ in owned])
        )

    def of_experts(self, experts: Sequence[int]) -> list[int]:
        """The places of the examples of some experts."""
        return torch.isin(self.expert_N, torch.tensor(list(experts))).nonzero()[:, 0].tolist()


def learn(
    model: Any, library: Library, rendering: Rendering, settings: Settings, read: Read | None = None
) -> tuple[Knowledge, list[Tried]]:
    """What a judge should know, and the candidates that were tried.

    Args:
        model: the plain base.
        library: the experts, with examples on their cards.
        rendering: how prompts become tokens.
        settings: the recipe's options.
        read: how examples become features; by default the base reads them.
    """
    knowledge, tried = fit_library(model, library, rendering, settings, read)
    expert_C = torch.tensor(champions(model, library, rendering, knowledge.class_E.tolist()))
    return replace(knowledge, expert_C=expert_C), tried


def fit_library(
    model: Any, library: Library, rendering: Rendering, settings: Settings, read: Read | None = None
) -> tuple[Knowledge, list[Tried]]:
    """The same but for who stands for each class, which is its first member.

    Args:
        model, library, rendering, settings: as for `learn`.
        read: how examples become features; by default the base reads them.
    """
    examples, places = Examples.of(library), settings.places(len(blocks_of(model)))
    header_H = torch.tensor(header_of(rendering) or [NO_TOKEN], dtype=torch.long)
    if read is None:
        read = partial(_by_the_base, model, rendering, header_H)
    words = [rendering.text(prompt) for prompt in examples.prompts]
    owned: list[list[str]] = [[] for _ in library.names]
    for expert, text in zip(examples.expert_N.tolist(), words, strict=True):
        owned[expert].append(text)
    class_E = torch.tensor(alike(owned))
    # A class is read once, by the examples of its first member.
    first = {int(number): expert for expert, number in reversed(list(enumerate(class_E.tolist())))}
    sample = [first[number] for number in sorted(first)][:SAMPLE]
    rest = [first[number] for number in sorted(first)][SAMPLE:]
    with _bar(len(GENERIC) + len(examples.of_experts([*sample, *rest]))) as tick:
        general_GPD = read(GENERIC, places, tick)
        at_N = examples.of_experts(sample)
        sample_NPD = read([examples.prompts[at] for at in at_N], places, tick)
        class_N = class_E[examples.expert_N[at_N]]
        fold_N = folds(class_N.tolist(), [examples.prompts[at] for at in at_N], FOLDS)
        tried = try_all(sample_NPD, class_N, fold_N, general_GPD, places, settings.kinds())
        chosen = best(tried)
        which = places.index(chosen.place)
        features_NF, general_GF = sample_NPD[:, which].clone(), general_GPD[:, which].clone()
        if rest:
            more = examples.of_experts(rest)
            rest_NPD = read([examples.prompts[at] for at in more], [chosen.place], tick)
            at_N, features_NF = [*at_N, *more], torch.cat([features_NF, rest_NPD[:, 0]])
    class_E, classes, calibration = _settled(
        _Read(examples, at_N, features_NF, general_GF, class_E), chosen.whiten, settings
    )
    kept_N = torch.tensor(at_N)
    knowledge = Knowledge(
        header_H=header_H,
        place_2=torch.tensor([chosen.place[0], list(POOLINGS).index(chosen.place[1])]),
        center_F=classes.center_F,
        whiten_FF=torch.ones(1, 1) if classes.whiten_FF is None else classes.whiten_FF,
        means_FM=classes.means_CF.T.contiguous(),
        expert_C=torch.tensor([class_E.tolist().index(number) for number in range(int(class_E.max()) + 1)]),
        class_E=class_E,
        example_NF=features_NF,
        expert_N=examples.expert_N[kept_N],
        index_N=examples.index_N[kept_N],
        general_GF=general_GF,
        limits_4=limits(calibration, settings),
    )
    return knowledge, tried


def _by_the_base(
    model: Any,
    rendering: Rendering,
    header_H: Tensor,
    prompts: Sequence[Prompt],
    places: Sequence[Place],
    tick: Tick,
) -> Tensor:
    return features_of(model, rendering, header_H, prompts, places, tick)


def limits(calibration: Calibration, settings: Settings) -> Tensor:
    """What the judge keeps of a calibration: temperature, threshold, floor, margin."""
    believed = (calibration.threshold, calibration.floor) if settings.abstain else (-3.0, -3.0)  # below any cosine
    return torch.tensor([calibration.temperature, *believed, calibration.margin])


@dataclass(frozen=True)
class _Read:
    """Features of examples, and whose they are."""

    examples: Examples
    at_N: list[int]
    features_NF: Tensor
    general_GF: Tensor
    class_E: Tensor


def _settled(read: _Read, whiten: bool, settings: Settings) -> tuple[Tensor, Classes, Calibration]:
    """Classes that can be told apart, their means, and how far they can be trusted."""
    owner_N = read.examples.expert_N[read.at_N]
    class_N = read.class_E[owner_N]
    joined = torch.tensor(confused(item_by_item(read.features_NF, class_N, read.general_GF, whiten), class_N))
    class_E = joined[read.class_E]
    class_N = class_E[owner_N]
    fold_N = folds(class_N.tolist(), [read.examples.prompts[at] for at in read.at_N], FOLDS)
    calibration, _ = validated(read.features_NF, class_N, fold_N, read.general_GF, whiten, settings.mix)
    return class_E, fitted(read.features_NF, class_N, read.general_GF, whiten), calibration


@contextmanager
def _bar(total: int) -> Iterator[Tick]:
    """A bar on standard error; to a pipe, its last state."""
    columns = (
        TextColumn("reading examples"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)
