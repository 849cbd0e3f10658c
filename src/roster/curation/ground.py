"""What a way of choosing data may look at: the base, the pool, the target, and a folder where its work is kept.

Shape legend: N rows of the pool, M rows of the target, G groups of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from roster.files import write_whole
from roster.prompts import Rendering
from roster.train.data import Encoded, Row
from roster.train.expert import Lesson

BLOCK = 32
"""Rows whose scores are kept together."""


@dataclass(frozen=True)
class Ground:
    """Everything that a way of choosing may look at.

    Attributes:
        model: the plain base.
        rendering: how prompts become tokens.
        pool: the rows to choose from.
        target: rows like those that the expert should get right; empty where nothing is aimed at.
        lesson: how a warm-up learns.
        warm_up: rows that it learns from.
        width: numbers that a gradient is projected to.
        scratch: where finished work is kept, so that it is not done twice.
        tick: called with the number of rows that have just been scored.
    """

    model: Any
    rendering: Rendering
    pool: Sequence[Row]
    target: Sequence[Row]
    lesson: Lesson
    warm_up: int
    width: int
    scratch: Path
    tick: Callable[[int], None]

    def encoded(self, rows: Sequence[Row]) -> Encoded:
        """Rows as tokens; RosterError for one without an answer or too long."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return Encoded(rows, self.rendering, limit)

    @cached_property
    def groups_M(self) -> Tensor:
        """Number of each target row's group: rows of one task are one."""
        numbers: dict[str | None, int] = {}
        return torch.tensor([numbers.setdefault(row.task, len(numbers)) for row in self.target])

    def nearest_group(self, likeness_NM: Tensor) -> Tensor:
        """Of how alike rows and target rows are, [N]: the mean over a group, and the best group."""
        groups = [likeness_NM[:, self.groups_M == number].mean(1) for number in range(int(self.groups_M.max()) + 1)]
        return torch.stack(groups).amax(0)

    def blockwise(self, name: str, compute: Callable[[int, int], Tensor]) -> Tensor:
        """`compute(start, stop)` [stop - start, ...] over the whole pool, block by block; what is finished is kept.

        Args:
            name: of the work, unique among that of this ground.
            compute: of rows from start up to stop.
        """
        found = []
        for start in range(0, len(self.pool), BLOCK):
            stop = min(start + BLOCK, len(self.pool))
            file = self.scratch / f"checkpoint-{name}-{start}.safetensors"
            if not file.is_file():
                write_whole(file, save({"scores": compute(start, stop).float().contiguous()}))
            found.append(load_file(file)["scores"])
            self.tick(stop - start)
        return torch.cat(found)
