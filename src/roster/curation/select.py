"""Choosing rows of a pool: by a way's scores, the best of them, in the pool's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roster.curation.ground import Ground
from roster.curation.ifd import ifd
from roster.curation.less import less
from roster.curation.near import near
from roster.errors import RosterError, nearest
from roster.library import digest, fingerprint
from roster.prompts import Rendering
from roster.train.data import Row, digest_of
from roster.train.expert import Lesson
from roster.train.plan import scratch_folder


def drawn(ground: Ground) -> Tensor:
    """Random numbers [N]: the yardstick that every way has to beat."""
    ground.tick(len(ground.pool))
    return torch.rand(len(ground.pool), generator=torch.Generator().manual_seed(ground.lesson.seed))


WAYS: dict[str, Callable[[Ground], Tensor]] = {"less": less, "ifd": ifd, "near": near, "random": drawn}
LESSON = Lesson(rank=8, alpha=16, epochs=4, learning_rate=2e-4)
"""Of a warm-up."""


def scores(
    way: str,
    model: Any,
    rendering: Rendering,
    pool: Sequence[Row],
    target: Sequence[Row],
    scratch: Path,
    *,
    lesson: Lesson = LESSON,
    warm_up: int | None = None,
    width: int = 8192,
    tick: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """The score [N] of each row, higher is better; minus infinity for one that should not be learned from.

    Args:
        way: one of `WAYS`.
        model: the plain base; it is plain again afterwards.
        rendering: how prompts become tokens.
        pool: the rows.
        target: rows that are aimed at; empty for ways that aim at nothing.
        scratch: a folder for finished work: a call that was interrupted goes on from there, and it is gone at the end.
        lesson: of a warm-up.
        warm_up: rows for it; by default a twentieth of the pool for less, and none for ifd.
        width: numbers that a gradient is projected to.
        tick: called with the number of rows that were just scored, `passes(way, lesson)` times for each.

    Raises:
        RosterError: an unknown way, or rows that it cannot use; before any work.
    """
    if way not in WAYS:
        raise RosterError(f"there is no way {way!r} of choosing data: {nearest(way, WAYS)}")
    if width < 1:
        raise RosterError(f"gradients are projected to at least one number, not {width}")
    if warm_up is None:
        warm_up = max(lesson.batch_size, len(pool) // 20) if way == "less" else 0
    if way == "less" and warm_up < 1:
        raise RosterError("less needs a warm-up of at least one row")
    plan = {
        "way of choosing": way,
        "base": digest(fingerprint(model)),
        "pool": digest_of(pool),
        "target": digest_of(target),
        "chat template": rendering.digest,
        "setting": [repr(lesson), warm_up, width],
    }
    with scratch_folder(scratch, plan) as folder:
        return WAYS[way](Ground(model, rendering, pool, target, lesson, warm_up, width, folder, tick))


def passes(way: str, lesson: Lesson = LESSON) -> int:
    """How often a way goes through the pool."""
    return lesson.epochs if way == "less" else 1


def best(scores_N: Tensor, count: int) -> list[int]:
    """Places of the rows with the highest scores, in their own order; of equals the first.

    Fewer than asked for, where the others should not be learned from.
    """
    order = sorted(range(len(scores_N)), key=lambda at: (-float(scores_N[at]), at))
    return sorted(at for at in order[:count] if scores_N[at] > -torch.inf)
