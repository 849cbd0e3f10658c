"""Prompts of `reasoning-gym` (Stojanovski et al., 2025, arXiv:2505.24760): procedural tasks that others have made.

A ground that owes nothing to roster: adapters whose cards name its tasks (`roster train expert` makes them from its
rows) are compared on its prompts. Answers are compared as everywhere; the package's own partial scores are left aside.
Needs the package `reasoning-gym`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from roster.errors import RosterError, nearest
from roster.pocket.contents import digest
from roster.train.data import Row

GROUP = "own"
_TEST = 30
"""Per cent of the prompts that nobody may learn from."""
_TRIES = 40
"""So many times as many prompts are drawn as are wanted, at most, before a task is said to have too few."""


def reasoning_rows(tasks: Sequence[str], split: Literal["train", "test"], count: int, seed: int = 0) -> list[Row]:
    """Prompts of some tasks, with the package's default settings.

    A prompt belongs to the training or the test split by a hash of itself, so that the splits cannot meet.

    Args:
        tasks: names that the package knows.
        split: "train" or "test".
        count: of each task; none occurs twice.
        seed: of the draw.

    Raises:
        RosterError: the package is missing, an unknown task, or one with fewer prompts than asked for.
    """
    gym, known = _package()
    for task in tasks:
        if task not in known:
            raise RosterError(f"reasoning-gym knows no task {task!r}: {nearest(task, known)}")
    return [row for task in tasks for row in _drawn(gym, task, split, count, seed)]


def _drawn(gym: Any, task: str, split: str, count: int, seed: int) -> list[Row]:
    found: dict[str, Row] = {}
    for item in gym.create_dataset(task, size=count * _TRIES, seed=digest(f"reasoning/{task}/{seed}") % 2**31):
        question, answer = item["question"].strip(), str(item["answer"]).strip()
        is_test = digest(f"reasoning/{task}/{question}") % 100 < _TEST
        if answer and is_test == (split == "test"):
            found.setdefault(question, Row(prompt=question, answer=answer, task=task, group=GROUP))
        if len(found) == count:
            return list(found.values())
    raise RosterError(f"task {task!r} has {len(found)} prompts for {split}, not {count}")


def _package() -> tuple[Any, list[str]]:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise RosterError(f"{error.name} is missing: pip install 'roster-moe[reasoning]'") from None
    return reasoning_gym, sorted(DATASETS)
