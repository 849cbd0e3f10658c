"""A user's log becomes records. One line per call: JSONL, or Parquet with the extra `parquet`.

    {"prompt": "...", "model": "small", "score": 1, "cost": 0.0002, "latency": 0.8}

`prompt` and `model` are required; `score` (in [0, 1]), `cost`, `latency`, `answer`, `logprob`, `dataset` and `split`
may be missing or null. Everything that is wrong is reported with its line number before anything is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from roster.errors import RosterError, nearest
from roster.lm.records import SPLITS, Matrix, Records, unknown
from roster.lm.splits import deduplicate, same

_MOST_ERRORS = 10
_Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]


class Call(pydantic.BaseModel):
    """One line of a log."""

    model_config = pydantic.ConfigDict(extra="forbid", protected_namespaces=())

    prompt: Annotated[str, pydantic.Field(min_length=1)]
    model: Annotated[str, pydantic.Field(min_length=1)]
    score: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
    cost: Annotated[_Number, pydantic.Field(ge=0)] | None = None
    latency: Annotated[_Number, pydantic.Field(ge=0)] | None = None
    answer: str | None = None
    logprob: Annotated[_Number, pydantic.Field(le=0)] | None = None
    dataset: str | None = None
    split: Literal["train", "validation", "test"] | None = None


def read_log(path: Path | str, currency: str = "USD") -> Records:
    """Reads and validates a log.

    Args:
        path: `.jsonl` or `.parquet`.
        currency: what a cost of 1.0 is.

    Returns:
        Records without repeated prompts, whatever their spacing and case. Several calls of one model with the same
        prompt in the same split are averaged, and prompts without a split get one by their text: 60 % train, 20 %
        validation, 20 % test. A prompt on both sides stays on the test's.

    Raises:
        RosterError: what is wrong, line by line.
    """
    path = Path(path)
    calls, errors = [], []
    for number, row in _rows(path):
        try:
            if isinstance(row, Exception):
                raise row
            calls.append(Call.model_validate(row))
        except pydantic.ValidationError as error:
            errors.append(f"line {number}: {_first(error, row)}")
        except ValueError as error:
            errors.append(f"line {number}: {error}")
    if errors:
        more = f"; and {len(errors) - _MOST_ERRORS} more lines" if len(errors) > _MOST_ERRORS else ""
        raise RosterError(f"{path}: " + "; ".join(errors[:_MOST_ERRORS]) + more)
    if not calls:
        raise RosterError(f"{path}: there are no calls in it")
    return deduplicate(_records(path, calls, currency))


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".parquet":
        yield from enumerate(_parquet(path), start=1)
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
                if not isinstance(row, dict):
                    raise ValueError("a line must be a JSON object")
            except UnicodeDecodeError:
                row = ValueError("not UTF-8 text")
            except RecursionError:
                row = ValueError("nested too deeply")
            except json.JSONDecodeError as error:
                row = ValueError(f"not JSON: {error.msg}")
            except ValueError as error:
                row = error
            yield number, row


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RosterError("reading Parquet needs an extra: pip install 'roster-moe[parquet]'") from None
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise RosterError(f"{path}: not a readable Parquet file: {error}") from None
    # Parquet has no missing keys, only nulls and NaN.
    return [{key: None if value != value else value for key, value in row.items()} for row in rows]


def _first(error: pydantic.ValidationError, row: Any) -> str:
    found = error.errors()[0]
    name = ".".join(map(str, found["loc"]))
    if found["type"] == "extra_forbidden":
        return f"unknown key {name!r}: {nearest(name, Call.model_fields)}"
    if found["type"] == "missing":
        return f"{name!r} is missing"
    if name in ("score",) and "than or equal" in found["msg"]:
        return f"score {row.get('score')!r} is not between 0 and 1; rescale the scores"
    return f"{name!r}: {found['msg'].lower()}"


def _records(path: Path, calls: list[Call], currency: str) -> Records:
    models = tuple(sorted({call.model for call in calls}))
    at = {model: m for m, model in enumerate(models)}
    given = _given_splits(calls)
    keys = [(same(call.prompt), call.split or given.get(same(call.prompt), "")) for call in calls]
    place = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    place_C = [place[key] for key in keys]
    prompts = [""] * len(place)
    shape = (len(prompts), len(models))
    answers = np.full(shape, None, dtype=object)
    datasets, splits = [""] * len(prompts), [split for _, split in place]
    repeats = np.zeros(shape, dtype=int)
    for call, n in zip(calls, place_C, strict=True):
        m = at[call.model]
        prompts[n] = prompts[n] or call.prompt
        repeats[n, m] += 1
        answers[n, m] = call.answer if call.answer is not None else answers[n, m]
        datasets[n] = call.dataset or datasets[n]
    measured = {name: _means(calls, place_C, at, name) for name in ("score", "cost", "latency", "logprob")}
    notes = []
    if again := int((repeats > 1).sum()):
        notes.append(f"{again} pairs of prompt and model occur several times in the log and were averaged")
    if assigned := splits.count(""):
        notes.append(f"{assigned} prompts had no split and got one by their text, 60/20/20")
    return Records(
        name=path.stem,
        prompts=tuple(prompts),
        models=models,
        score_NM=measured["score"],
        cost_NM=measured["cost"],
        delay_NM=measured["latency"],
        datasets=tuple(datasets),
        splits=tuple(split or _split_of(prompt) for split, prompt in zip(splits, prompts, strict=True)),
        currency=currency,
        answer_NM=answers if any(call.answer is not None for call in calls) else None,
        logprob_NM=measured["logprob"] if np.isfinite(measured["logprob"]).any() else None,
        notes=tuple(notes),
    )


def _given_splits(calls: list[Call]) -> dict[str, str]:
    """The split nearest to the test that any line gives a question; lines without one follow it."""
    given: dict[str, str] = {}
    for call in calls:
        if call.split:
            given[same(call.prompt)] = max(call.split, given.get(same(call.prompt), call.split), key=SPLITS.index)
    return given


def _means(calls: list[Call], place_C: list[int], at: dict[str, int], name: str) -> Matrix:
    """The mean of each cell over its calls, NaN without any; `place_C` is every call's row."""
    shape = (max(place_C) + 1, len(at))
    total, count = np.zeros(shape), np.zeros(shape)
    for call, n in zip(calls, place_C, strict=True):
        value = getattr(call, name)
        if value is not None:
            total[n, at[call.model]] += value
            count[n, at[call.model]] += 1
    return np.where(count > 0, total / np.maximum(count, 1), unknown(*total.shape))


def _split_of(prompt: str) -> str:
    """By the text, so that a question is on the same side in every log, however it is spaced and capitalised."""
    part = int.from_bytes(hashlib.sha256(same(prompt).encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    return "train" if part < 0.6 else "validation" if part < 0.8 else "test"
