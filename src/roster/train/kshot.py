"""Choosing experts of a library by a few shots of a task (Yang et al., 2024, Rocket, arXiv:2408.15915).

An adapter may hit answers by luck, and then finds what leads to them unlikely: so both count, exact answers and the
loss of the answers as they are written, chains of thought included. Of the good ones a group is taken whose updates
point in different directions.

Shape legend: E experts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roster.adapters.attach import attach
from roster.errors import RosterError
from roster.library import Library, similarity
from roster.prompts import Rendering, padded
from roster.recipes import find
from roster.routed.becoming import detach
from roster.train.data import Encoded, Row, collate

_GROUPS = 100_000
"""Groups that are looked at, at most."""


@dataclass(frozen=True)
class Standing:
    """How one expert did on the shots.

    Attributes:
        name: of the expert.
        exact: share of shots whose greedy answer is the right one, as a whole or after a mark.
        nats: mean loss per token of the right answers.
    """

    name: str
    exact: float
    nats: float


def rank(
    model: Any, library: Library, shots: Sequence[Row], tokenizer: Any, *, mark: str | None = None, batch: int = 16
) -> list[Standing]:
    """Every expert's standing, the best first: by the sum of its places in exact answers and in loss.

    Args:
        model: the plain base; comes back plain.
        library: the experts.
        shots: prompts with right answers; what is before `mark` in them counts for the loss alone.
        tokenizer: of the base, or a `Rendering` of it.
        mark: a text after which the final answer stands ("####", "The answer is"); None compares whole answers.
        batch: shots at a time.

    Raises:
        RosterError: no shots, a shot without an answer, or without the mark in it.
    """
    if not shots:
        raise RosterError("experts are chosen by shots of the task: give at least one row")
    for number, shot in enumerate(shots, 1):
        if shot.answer is None or (mark is not None and mark not in shot.answer):
            raise RosterError(f"shot {number} has no answer" + ("" if mark is None else f" with {mark!r} in it"))
    rendering = Rendering.of(tokenizer)
    routed = attach(model, library, find("named")(), recipe="named", tokenizer=rendering)
    was_training = routed.training
    routed.eval()
    try:
        found = [
            Standing(
                name, _exact(routed, name, shots, rendering, mark, batch), _nats(routed, name, shots, rendering, batch)
            )
            for name in library.names
        ]
    finally:
        routed.train(was_training)
        detach(routed)
    return _ordered(found)


def choose(
    model: Any,
    library: Library,
    shots: Sequence[Row],
    tokenizer: Any,
    *,
    count: int = 4,
    among: int | None = None,
    mark: str | None = None,
) -> Library:
    """The experts to begin a mixture with: good ones, the best among them, that are least alike.

    Args:
        model, library, shots, tokenizer, mark: as of `rank`.
        count: experts to choose.
        among: the best so many are looked at; by default twice `count`.

    Returns:
        A library of `count` experts, in the order of their standing.

    Raises:
        RosterError: more experts are wanted than there are, or there are too many groups to look at.
    """
    if not 1 <= count <= len(library):
        raise RosterError(f"cannot choose {count} experts of {len(library)}")
    among = min(len(library), 2 * count if among is None else among)
    if among < count:
        raise RosterError(f"cannot choose {count} experts among the best {among}")
    if math.comb(among - 1, count - 1) > _GROUPS:
        raise RosterError(f"there are too many groups of {count} among {among} experts: look among fewer")
    best = [each.name for each in rank(model, library, shots, tokenizer, mark=mark)[:among]]
    return Library({name: library[name] for name in least_alike(library, best, count)})


def least_alike(library: Library, names: Sequence[str], count: int) -> list[str]:
    """The group of that size with the smallest sum of absolute cosines of updates; the first name is always in it."""
    alike_EE = similarity(Library({name: library[name] for name in names})).abs()
    groups = ((0, *rest) for rest in itertools.combinations(range(1, len(names)), count - 1))
    chosen = min(groups, key=lambda group: float(alike_EE[list(group)][:, list(group)].sum()))
    return [names[index] for index in chosen]


def _ordered(found: Sequence[Standing]) -> list[Standing]:
    """By the sum of both places; experts with the same figure share a place, and ties go to the lower loss."""
    exact = sorted({each.exact for each in found}, reverse=True)
    nats = sorted({each.nats for each in found})
    return sorted(found, key=lambda each: (exact.index(each.exact) + nats.index(each.nats), each.nats, each.name))


@torch.no_grad()
def _nats(model: Any, name: str, shots: Sequence[Row], rendering: Rendering, batch: int) -> float:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    items, total, told = Encoded(shots, rendering, limit).items, 0.0, 0
    for start in range(0, len(items), batch):
        given = collate(items[start : start + batch], pad=rendering.pad_token_id)
        count = int((given["labels"][:, 1:] >= 0).sum())
        rows = {key: tensor.to(model.device) for key, tensor in given.items()}
        ids_B = model.task_ids([name] * len(given["labels"]))
        total, told = total + count * float(model(**rows, task_ids=ids_B, use_cache=False).loss), told + count
    return total / told


@torch.no_grad()
def _exact(model: Any, name: str, shots: Sequence[Row], rendering: Rendering, mark: str | None, batch: int) -> float:
    right = 0
    pairs = [rendering.pair(shot.asked, shot.answer or "") for shot in shots]
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        given = padded([asked for asked, _ in part], rendering.pad_token_id, "left")
        longest = max(len(told) for _, told in part)
        written_BL: Tensor = model.generate(
            **{key: tensor.to(model.device) for key, tensor in given.items()},
            tasks=[name] * len(part),
            max_new_tokens=longest,
            do_sample=False,
            pad_token_id=rendering.pad_token_id,
        )[:, given["input_ids"].shape[1] :]
        for row_L, shot in zip(written_BL.tolist(), shots[start : start + batch], strict=True):
            said = rendering.tokenizer.decode(row_L, skip_special_tokens=True)
            right += _final(said, mark) == _final(shot.answer or "", mark)
    return right / len(shots)


def _final(text: str, mark: str | None) -> str | None:
    """What is compared of an answer; None where the mark is missing, which equals nothing that is right."""
    if mark is None:
        return text.strip()
    return text.rpartition(mark)[2].strip() if mark in text else None
