"""Votes: a prompt, two models, and whose answer was preferred. What preference routers are trained and judged on.

    {"prompt": "...", "model_a": "small", "model_b": "large", "winner": "model_a"}

`winner` is "model_a" or "a", "model_b" or "b", a model's name, or a tie: "tie", "both", "both_bad", "tie (bothbad)".
The prompt may be a chat's `messages`.

Shape legend: V votes, M models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic
from numpy.typing import NDArray

from roster.errors import RosterError, nearest
from roster.lm.importing import Asked, given_splits, split_of
from roster.lm.reading import read_lines, rows
from roster.lm.records import SPLITS, Matrix
from roster.lm.splits import same
from roster.lm.text import DEFAULT, TextRule

_SHARE = {"model_a": 1.0, "a": 1.0, "model_b": 0.0, "b": 0.0}
_TIES = ("tie", "both", "both_bad", "tie (bothbad)")
_KEYS = ("model_a", "model_b", "winner")


@dataclass(frozen=True, eq=False)
class Votes:
    """Who was preferred.

    Attributes:
        name: what people call the data.
        prompts: of each vote, V texts; one may occur several times.
        models: M names.
        pair_V2: the two models of each vote, as positions in `models`.
        share_V: what the first of them won: 1, 0, or 0.5 for a tie.
        splits: "train", "validation" or "test" for each vote; all votes on a prompt are on one side.
        text: which text of a request the prompts are.
        notes: what a reader of a report must know about the data.
    """

    name: str
    prompts: tuple[str, ...]
    models: tuple[str, ...]
    pair_V2: NDArray[np.int64]
    share_V: Matrix
    splits: tuple[str, ...]
    text: TextRule = DEFAULT
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.prompts)
        if self.pair_V2.shape != (count, 2) or self.share_V.shape != (count,) or len(self.splits) != count:
            raise RosterError(f"votes {self.name!r}: a pair of models, a share and a split per vote are needed")
        if count and not (self.pair_V2.min() >= 0 and self.pair_V2.max() < len(self.models)):
            raise RosterError(f"votes {self.name!r} are about models that they do not name")
        if unknown := set(self.splits) - set(SPLITS):
            raise RosterError(f"votes {self.name!r}: unknown split {min(unknown)!r}: {nearest(min(unknown), SPLITS)}")

    def __len__(self) -> int:
        return len(self.prompts)

    def where(self, chosen_V: NDArray[np.bool_]) -> Votes:
        """Some of the votes."""
        at = np.flatnonzero(chosen_V)
        picked: dict[str, Any] = {name: tuple(getattr(self, name)[v] for v in at) for name in ("prompts", "splits")}
        return replace(self, **picked, pair_V2=self.pair_V2[at], share_V=self.share_V[at])

    def split(self, *names: str) -> Votes:
        """The votes of some splits."""
        return self.where(np.array([split in names for split in self.splits], dtype=bool))

    def without(self, models: tuple[str, ...]) -> Votes:
        """The votes in which none of some models takes part; RosterError for a model that is not there."""
        for model in models:
            if model not in self.models:
                raise RosterError(f"votes {self.name!r} have no model {model!r}: {nearest(model, self.models)}")
        left = [m for m, model in enumerate(self.models) if model not in models]
        if len(left) < 2:
            raise RosterError(f"votes {self.name!r}: fewer than two models are left")
        kept = self.where(np.asarray(np.isin(self.pair_V2, left).all(1)))
        place_M = np.searchsorted(left, np.arange(len(self.models)))
        return replace(kept, models=tuple(self.models[m] for m in left), pair_V2=place_M[kept.pair_V2])


class Ballot(Asked):
    """One line of a log of votes."""

    model_a: Annotated[str, pydantic.Field(min_length=1)]
    model_b: Annotated[str, pydantic.Field(min_length=1)]
    winner: str

    @pydantic.model_validator(mode="after")
    def _two(self) -> Ballot:
        if self.model_a == self.model_b:
            raise ValueError(f"model_a and model_b are both {self.model_a!r}")
        if self.winner not in (*_SHARE, *_TIES, self.model_a, self.model_b):
            raise ValueError(f"winner {self.winner!r} is none of {', '.join((*_SHARE, *_TIES))}, nor a model's name")
        return self

    def share(self) -> float:
        """What model_a won."""
        if self.winner in (self.model_a, self.model_b):  # before the letters: a model may be called "b"
            return float(self.winner == self.model_a)
        return _SHARE.get(self.winner, 0.5)


def is_of_votes(path: Path | str) -> bool:
    """Whether a log is of votes and not of calls, by its first line."""
    _, first = next(iter(rows(Path(path))), (0, None))
    return isinstance(first, dict) and all(first.get(key) is not None for key in _KEYS[:2])


def read_votes(path: Path | str, *, text: TextRule = DEFAULT) -> Votes:
    """Reads and validates a log of votes.

    Args:
        path: `.jsonl` or `.parquet`.
        text: which text of a chat a decision sees.

    Returns:
        Votes whose prompts have a split each: the one that the log gives, nearest to the test where it gives several,
        else one by the text (60 % train, 20 % validation, 20 % test).

    Raises:
        RosterError: what is wrong, line by line.
    """
    path = Path(path)
    ballots, notes = read_lines(path, Ballot)
    worded = [ballot for ballot in ballots if ballot.text(text)]
    if not worded:
        raise RosterError(f"{path}: no request has any text")
    if silent := len(ballots) - len(worded):
        notes.append(f"{silent} votes were left out: their requests have no text")
    models = tuple(sorted({model for ballot in worded for model in (ballot.model_a, ballot.model_b)}))
    at = {model: m for m, model in enumerate(models)}
    prompts = [ballot.text(text) for ballot in worded]
    given = given_splits(prompts, [ballot.split for ballot in worded])
    nearest_split: dict[str, str] = {}
    for prompt, split in zip(prompts, given, strict=True):
        if split:
            nearest_split[same(prompt)] = max(split, nearest_split.get(same(prompt), split), key=SPLITS.index)
    return Votes(
        name=path.stem,
        prompts=tuple(prompts),
        models=models,
        pair_V2=np.array([(at[ballot.model_a], at[ballot.model_b]) for ballot in worded]),
        share_V=np.array([ballot.share() for ballot in worded]),
        splits=tuple(nearest_split.get(same(prompt)) or split_of(prompt) for prompt in prompts),
        text=text,
        notes=tuple(notes),
    )
