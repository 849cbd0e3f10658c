"""The figures that come with roster, with or without the texts they were measured on.

Shape legend: N prompts, M models. In a figures file: models, score_NM; row_N, which of upstream's rows; datasets and
dataset_N; test_N; same_N, the first row that asks the same question; chars_N, length of the prompt; and where they were
recorded written_NM, length of the answer, and answer_NM, equal numbers within a row for equal answers (-1: none).
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.lm.data import texts as of_others
from roster.lm.data.sources import sources
from roster.lm.prices import CHARS_PER_TOKEN
from roster.lm.records import Matrix


@dataclass(frozen=True, eq=False)
class Figures:
    """One collection before its costs are known; see the legend above.

    Attributes:
        prompts: the texts, or where they were not asked for a number for each question.
        answers: the texts where upstream has them, else labels that are equal where answers are; or no matrix at all.
        worded: whether answers are texts.
        read_N: tokens of each prompt (characters / 4).
        written_NM: tokens of each answer; or no matrix at all.
    """

    models: tuple[str, ...]
    score_NM: Matrix
    prompts: tuple[str, ...]
    datasets: tuple[str, ...]
    splits: tuple[str, ...]
    read_N: Matrix
    written_NM: Matrix | None
    answers: NDArray[np.object_] | None
    worded: bool = False


def read(name: str, texts: bool) -> Figures:
    """The figures of that name; RosterError where the texts are asked for and are not here."""
    content = (files("roster.lm.data") / sources()[name].folder / f"{name}.npz").read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        at: dict[str, NDArray[Any]] = {key: stored[key] for key in stored.files}
    prompts, answers, worded = [f"{name} question {n}" for n in at["same"]], None, False
    if "answer" in at:
        answers = np.array([_labels(n, row) for n, row in enumerate(at["answer"].tolist())], dtype=object)
    if texts:
        prompts, told = of_others.read(name, at["row"].tolist())
        if told:
            answers, worded = np.array(told, dtype=object), True
    return Figures(
        models=tuple(at["models"].tolist()),
        score_NM=at["score"],
        prompts=tuple(prompts),
        datasets=tuple(at["datasets"][at["dataset"]].tolist()),
        splits=tuple("test" if test else "train" for test in at["test"]),
        read_N=at["chars"] / CHARS_PER_TOKEN,
        written_NM=at["written"] / CHARS_PER_TOKEN if "written" in at else None,
        answers=answers,
        worded=worded,
    )


def _labels(n: int, number_M: list[int]) -> list[str | None]:
    """A label for each number of a row, equal where they are.

    The numbers themselves count up as answers first occur, so that 0 is mostly the right one: whoever learned from them
    would hear what other models answered.
    """
    return [None if a < 0 else "answer " + hashlib.sha256(f"{n} {a}".encode()).hexdigest()[:8] for a in number_M]
