"""Prompts and answers of the recorded data, read from the files of others. Which rows count is in the figures."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from roster.errors import RosterError
from roster.lm.data import places
from roster.lm.data.sources import Source, sources

Texts = tuple[list[str], list[list[str]]]
"""Prompts, and per prompt the answers of each model in the order of the figures; no answers: an empty list."""

GSM8K_MODELS = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
ZEROEVAL = "WildEval__ZeroEval"
"""A folder that people already have keeps the questions of CRUX and GSM8K here, one file each."""


def read(name: str, row_N: Sequence[int] | None = None) -> Texts:
    """The texts of a collection, checked against their hash.

    Args:
        name: the collection.
        row_N: which of upstream's rows; all unless given.

    Raises:
        RosterError: they are not on this machine (the message has the command), or not those of the figures.
    """
    source = sources()[name]
    try:
        prompts, answers = upstream(name)
    except RosterError as error:
        raise RosterError(
            f"the texts of {name!r} do not come with roster and are not on this machine: run `roster lm fetch {name}` "
            f"({source.repository}, {source.licence}), or set {places.DATA} to a folder that has them ({error})"
        ) from None
    if row_N is not None and len(prompts) > max(row_N):
        prompts, answers = [prompts[n] for n in row_N], [answers[n] for n in row_N] if answers else []
    if digest(prompts, answers) != source.texts:
        raise RosterError(
            f"the texts of {name!r} on this machine are not those that the figures belong to: they must be those of "
            f"{source.repository} at commit {source.commit}; run `roster lm fetch {name} --again`, "
            f"or look at the folder that {places.DATA} names"
        )
    return prompts, answers


def digest(prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> str:
    """sha256 of all texts in their order."""
    return hashlib.sha256(json.dumps([list(prompts), [list(row) for row in answers]]).encode()).hexdigest()


def upstream(name: str) -> Texts:
    """All rows in upstream's order, unchecked.

    Raises:
        RosterError: a file is missing or is not of the form that upstream had.
    """
    try:
        return _READERS[name](sources()[name])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise RosterError(f"the files of {name!r} are damaged: {type(error).__name__}: {error}") from None


def _lines(folder: str, path: str) -> list[Any]:
    return [json.loads(line) for line in places.read(folder, path).decode().split("\n") if line]


def _llmrouter(source: Source) -> Texts:
    rows = [row for file in source.files for row in json.loads(places.read(source.folder_of_texts, file.path))]
    return [row["question"] for row in rows], []


def _tables(source: Source) -> list[dict[str, str]]:
    read = [places.read(source.folder_of_texts, file.path).decode() for file in source.files]
    return [row for text in read for row in csv.DictReader(io.StringIO(text, newline=""))]


def _routellm_gsm8k(source: Source) -> Texts:
    rows = _tables(source)
    return [row["prompt"] for row in rows], [[row[f"{model}_response"] for model in GSM8K_MODELS] for row in rows]


def _routellm_mmlu(source: Source) -> Texts:
    return [row["prompt"] for row in _tables(source)], []


def _mt_bench(source: Source) -> Texts:
    return [row["turns"][0] for row in _lines(source.folder_of_texts, source.files[0].path)], []


def _crux(source: Source) -> Texts:
    """The function and the assertion, without the instruction that ZeroEval puts before every one."""
    if places.find(ZEROEVAL, "crux.queries.jsonl"):
        asked = [row["question"] for row in _lines(ZEROEVAL, "crux.queries.jsonl")]
        return [question[question.index("[PYTHON]") :] for question in asked], []
    rows = _lines(source.folder_of_texts, source.files[0].path)
    return [f"[PYTHON]\n{row['code']}\nassert f({row['input']}) == ??\n[/PYTHON]" for row in rows], []


def _gsm8k(source: Source) -> Texts:
    if places.find(ZEROEVAL, "gsm.queries.jsonl"):
        return [row["question"] for row in _lines(ZEROEVAL, "gsm.queries.jsonl")], []
    return [row["question"] for row in _lines(source.folder_of_texts, source.files[0].path)], []


def _smoothie(source: Source) -> Texts:
    made = [json.loads(places.read(source.folder_of_texts, file.path))["generations"] for file in source.files]
    answers = [list(row) for row in zip(*made, strict=True)]
    return [f"CNN/DailyMail test article {n}" for n in range(len(answers))], answers


_READERS: dict[str, Callable[[Source], Texts]] = {
    "llmrouter": _llmrouter,
    "routellm-gsm8k": _routellm_gsm8k,
    "routellm-mmlu": _routellm_mmlu,
    "routellm-mt-bench": _mt_bench,
    "zeroeval-crux": _crux,
    "zeroeval-gsm8k": _gsm8k,
    "smoothie-cnn": _smoothie,
}
