"""What a method learns from texts before it merges: what its learner starts from, and what comes of it.

A method that needs data has a *learner*: a dataclass whose fields are settings (one value for the run). `begin` gives
what is *learned*: at once it says for every tensor what its kernel will be given, so that the whole plan is checked
before any work; `learn` does the work, keeps it in a folder, and goes on there after a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from roster.errors import RosterError
from roster.weights import Source
from roster.weights.texts import Texts

Progress = Callable[[str, int, int], None]
"""Told what is being done, of steps done, and of how many there are."""


@dataclass(frozen=True)
class Asked:
    """What a learner starts from.

    Attributes:
        models: those that are merged, by name, in their order.
        texts: one for each of them, the same object where one file serves all; for a learner that is not `per_model`,
            one for each file.
        base: the model that they were made of, where there is one.
        folder: where what is learned is kept.
        whole: whether the merge is of whole models, and not of slices of layers.
    """

    models: Mapping[str, Source]
    texts: Sequence[Texts]
    base: Source | None
    folder: Path
    whole: bool = True


class Learned(Protocol):
    """What is known, or will be once `learn` was called."""

    def of(self, tensor: str, names: Sequence[tuple[str, str]]) -> Sequence[Any] | None:
        """For one output tensor, one thing for each model: an operand, or what the kernel's field takes.

        Args:
            tensor: its name in the new checkpoint.
            names: (model, its tensor there) of each model that is merged.

        Returns:
            None where nothing is known about the tensor.
        """

    def learn(self, progress: Progress | None = None) -> None:
        """Does the work; what was done already is not done again."""

    def text(self) -> str:
        """For people, before the work: what it is and what it takes."""

    def files(self) -> Mapping[str, bytes | Path]:
        """What goes into the new folder besides the tensors."""


class Learner(Protocol):
    """Settings of a method's learning.

    Attributes:
        per_model: whether texts are each model's own; else they are of the merge.
    """

    per_model: ClassVar[bool]

    def begin(self, asked: Asked) -> Learned:
        """Checks what it is given, reading headers and texts only."""


def steps(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """A progress of one piece of work, for who counts steps only."""
    return None if progress is None else lambda done, count: progress(what, done, count)


def check_rows(texts: Sequence[Texts], batch: int, needed_by: str) -> None:
    """RosterError where one of the files gives fewer rows than a method trains on at a time."""
    least = min(len(each.ids_BS) for each in texts)
    if least < batch:
        raise RosterError(f"{needed_by}: batch={batch}, but a file of texts gives fewer rows: {least}")
