"""Records: who answered which prompt how well, for how much, how fast. What every router is trained and judged on.

Shape legend: N prompts, M models. A cell that nobody measured is NaN.
Reading a user's log is `roster.lm.importing`, the recorded data of others `roster.lm.data`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError, nearest
from roster.lm.text import DEFAULT, TextRule

Matrix = NDArray[np.float64]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Logged:
    """What a log of calls knows beside the figures of the answers.

    Attributes:
        text: which text of a request the prompts are.
        calls_NM: of how many calls each cell is the mean; NaN for none.
        propensity_NM: the chance with which whoever routed the log drew this model for this prompt.
        written_NM: tokens of the answer; with them, a policy can be held to other prices.
    """

    text: TextRule
    calls_NM: Matrix
    propensity_NM: Matrix
    written_NM: Matrix

    def part(self, rows: Any, columns: Any) -> Logged:
        """That of some prompts and models."""
        named = {name: getattr(self, name)[rows][:, columns] for name in MEASURED}
        return replace(self, **named)


MEASURED = ("calls_NM", "propensity_NM", "written_NM")
"""The matrices of `Logged`."""


@dataclass(frozen=True, eq=False)
class Records:
    """Prompts, models, and a matrix for everything that was measured.

    Attributes:
        name: what people call the data.
        prompts: N texts.
        models: M names; every matrix has its columns in this order.
        score_NM: quality of each answer in [0, 1].
        cost_NM: price of each call in `currency`.
        delay_NM: seconds until each answer was complete.
        datasets: the data set or task of each prompt, "" where unknown.
        splits: "train", "validation" or "test" for each prompt.
        currency: what a cost of 1.0 is.
        answer_NM: the answers' texts, None where there is none; or no matrix at all.
        logprob_NM: mean log-probability of each answer; or no matrix at all.
        checked_NM: the share of a model's own checks that called its answer right; or no matrix at all.
        check_cost_NM: what these checks cost together; or no matrix at all.
        worded: whether answers are their texts; False where they only say which are equal.
        notes: what a reader of a report must know about the data.
        logged: what only a log of calls has; None for other data.
    """

    name: str
    prompts: tuple[str, ...]
    models: tuple[str, ...]
    score_NM: Matrix
    cost_NM: Matrix
    delay_NM: Matrix
    datasets: tuple[str, ...]
    splits: tuple[str, ...]
    currency: str = "USD"
    answer_NM: NDArray[np.object_] | None = None
    logprob_NM: Matrix | None = None
    checked_NM: Matrix | None = None
    check_cost_NM: Matrix | None = None
    worded: bool = True
    notes: tuple[str, ...] = field(default=())
    logged: Logged | None = None

    def __post_init__(self) -> None:
        shape = (len(self.prompts), len(self.models))
        if len(set(self.models)) < len(self.models):
            raise RosterError(f"records {self.name!r} name a model twice")
        for name, matrix in self.matrices().items():
            if matrix.shape != shape:
                raise RosterError(f"records {self.name!r}: {name} has shape {matrix.shape}, not {shape}")
        if {len(self.datasets), len(self.splits)} != {shape[0]}:
            raise RosterError(f"records {self.name!r}: a data set and a split per prompt are needed")
        if unknown := set(self.splits) - set(SPLITS):
            raise RosterError(f"records {self.name!r}: unknown split {min(unknown)!r}: {nearest(min(unknown), SPLITS)}")

    def __len__(self) -> int:
        return len(self.prompts)

    def matrices(self) -> dict[str, NDArray[Any]]:
        """Whatever was measured, by the attribute's name."""
        named = ("score_NM", "cost_NM", "delay_NM", "answer_NM", "logprob_NM", "checked_NM", "check_cost_NM")
        return {name: getattr(self, name) for name in named if getattr(self, name) is not None}

    def rows(self, index: NDArray[Any]) -> Records:
        """The records of some prompts, in the order of `index` (positions or a mask)."""
        at = np.flatnonzero(index) if np.asarray(index).dtype == bool else np.asarray(index, dtype=int)
        changed: dict[str, Any] = {
            name: tuple(getattr(self, name)[n] for n in at) for name in ("prompts", "datasets", "splits")
        }
        changed |= {name: matrix[at] for name, matrix in self.matrices().items()}
        return replace(self, **changed, logged=self.logged and self.logged.part(at, slice(None)))

    def split(self, name: str) -> Records:
        """The records of one split."""
        return self.rows(np.array([each == name for each in self.splits], dtype=bool))

    def only(self, models: Sequence[str]) -> Records:
        """The records of some models, in the order asked for.

        Raises:
            RosterError: a model that the records do not have.
        """
        at = [self.column(model) for model in models]
        columns: dict[str, Any] = {name: matrix[:, at] for name, matrix in self.matrices().items()}
        return replace(self, models=tuple(models), **columns, logged=self.logged and self.logged.part(slice(None), at))

    def without(self, models: Iterable[str]) -> Records:
        """The records of all models but some.

        Raises:
            RosterError: a model that the records do not have, or none is left.
        """
        gone = {self.models[self.column(model)] for model in models}
        left = [model for model in self.models if model not in gone]
        if not left:
            raise RosterError(f"records {self.name!r} have no model left: all {len(gone)} are left out")
        return self.only(left) if gone else self

    @property
    def text(self) -> TextRule:
        """Which text of a request the prompts are."""
        return self.logged.text if self.logged is not None else DEFAULT

    def column(self, model: str) -> int:
        """Where a model's column is; RosterError with the nearest names when there is none."""
        if model not in self.models:
            raise RosterError(f"records {self.name!r} have no model {model!r}: {nearest(model, self.models)}")
        return self.models.index(model)

    @property
    def measured_NM(self) -> Matrix:
        """The scores that were measured; where gaps were filled, `score_NM` has more."""
        return self.score_NM

    @property
    def missing(self) -> Mapping[str, int]:
        """How many scores, costs and delays nobody measured."""
        return {
            what: int(np.isnan(matrix).sum())
            for what, matrix in (("score", self.score_NM), ("cost", self.cost_NM), ("delay", self.delay_NM))
        }


def unknown(count: int, models: int) -> Matrix:
    """A matrix in which nothing was measured."""
    return np.full((count, models), np.nan)
