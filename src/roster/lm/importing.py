"""A user's log becomes records. One line per call: JSONL, or Parquet with the extra `parquet`.

    {"prompt": "...", "model": "small", "score": 1, "cost": 0.0002, "latency": 0.8}

`model` and either `prompt` or `messages` (of a chat, in OpenAI's form) are required; everything else may be missing or
null. Where costs are missing and prices are known, they follow from the tokens. What is wrong is reported with its line
number before anything is written. How lines are read is `roster.lm.reading`; logs of votes are `roster.lm.votes`.

Shape legend: C calls, N prompts, M models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from roster.errors import RosterError, nearest
from roster.lm.prices import Price, check_prices, tokens
from roster.lm.reading import read_lines
from roster.lm.records import SPLITS, Logged, Matrix, Records, unknown
from roster.lm.splits import deduplicate, same
from roster.lm.text import DEFAULT, TextRule, readable, request_text

_Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]
_Text = Annotated[str, pydantic.Field(min_length=1)]
_Count = Annotated[float, pydantic.Field(ge=0, lt=2**40, allow_inf_nan=False)]


class Turn(pydantic.BaseModel):
    """One message of a chat; further fields do not matter here."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class Asked(pydantic.BaseModel):
    """What a line of any log says about the request: the prompt, or the messages of a chat."""

    model_config = pydantic.ConfigDict(protected_namespaces=())

    prompt: _Text | None = None
    messages: Annotated[list[Turn], pydantic.Field(min_length=1)] | None = None
    dataset: str | None = None
    split: Literal["train", "validation", "test"] | None = None

    @pydantic.model_validator(mode="after")
    def _one(self) -> Asked:
        if self.prompt is None and self.messages is None:
            raise ValueError("'prompt' is missing")
        if self.prompt is not None and self.messages is not None:
            raise ValueError("give 'prompt' or 'messages', one of them")
        return self

    def text(self, rule: TextRule) -> str:
        """What a decision sees of it."""
        if self.messages is None:
            return readable(self.prompt or "")
        return request_text([(turn.role, turn.content) for turn in self.messages], rule)

    def read(self) -> float:
        """About how many tokens the model reads."""
        return tokens(self.text("conversation"))


class Call(Asked):
    """One line of a log."""

    model: _Text
    score: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
    cost: Annotated[_Number, pydantic.Field(ge=0)] | None = None
    latency: Annotated[_Number, pydantic.Field(ge=0)] | None = None
    answer: str | None = None
    logprob: Annotated[_Number, pydantic.Field(le=0)] | None = None
    checked: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
    check_cost: Annotated[_Number, pydantic.Field(ge=0)] | None = None
    propensity: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None

    def written(self, price: Price | None) -> float | None:
        """Tokens of the answer: as counted, else by its length, else by what it cost; None where nothing says."""
        if self.completion_tokens is not None:
            return self.completion_tokens
        if self.answer is not None:
            return tokens(self.answer)
        if self.cost is None or price is None or price.output == 0:
            return None
        return max(0.0, (self.cost * 1e6 - self._read() * price.input) / price.output)

    def paid(self, price: Price | None) -> float | None:
        """What it cost: as logged, else by its tokens and the price; None where nothing says."""
        written = self.written(price)
        if self.cost is not None or price is None or written is None:
            return self.cost
        return (self._read() * price.input + written * price.output) / 1e6

    def _read(self) -> float:
        return self.read() if self.prompt_tokens is None else self.prompt_tokens


def read_log(
    path: Path | str,
    currency: str = "USD",
    *,
    text: TextRule = DEFAULT,
    prices: Mapping[str, Price] | None = None,
    without: tuple[str, ...] = (),
) -> Records:
    """Reads and validates a log.

    Args:
        path: `.jsonl` or `.parquet`.
        currency: what a cost of 1.0 is.
        text: which text of a chat a decision sees; the gateway goes by the same rule.
        prices: per model; where a line has no cost, it follows from them and the tokens.
        without: models whose calls are left out.

    Returns:
        Records without repeated prompts, whatever their spacing and case. Several calls of one model with the same
        prompt in the same split are averaged, and prompts without a split get one by their text: 60 % train, 20 %
        validation, 20 % test. A prompt on both sides stays on the test's.

    Raises:
        RosterError: what is wrong, line by line; a model of `without` that the log does not have; prices that do not
            match the models.
    """
    path = Path(path)
    calls, notes = read_lines(path, Call)
    calls, more = _chosen(path, calls, text, without)
    models = tuple(sorted({call.model for call in calls}))
    if prices is not None:
        check_prices(prices, models)
    made = _records(path.stem, calls, models, currency, text, prices or {})
    return deduplicate(replace(made, notes=(*notes, *more, *made.notes)))


def _chosen(path: Path, calls: list[Call], text: TextRule, without: tuple[str, ...]) -> tuple[list[Call], list[str]]:
    """The calls that say anything about the models asked for."""
    known = {call.model for call in calls}
    for model in without:
        if model not in known:
            raise RosterError(f"{path}: there is no model {model!r} to leave out: {nearest(model, known)}")
    left = [call for call in calls if call.model not in without]
    if not left:
        raise RosterError(f"{path}: no model is left: all {len(known)} are left out")
    worded = [call for call in left if call.text(text)]
    if not worded:
        raise RosterError(f"{path}: no request has any text")
    notes = []
    if silent := len(left) - len(worded):
        notes.append(f"{silent} calls were left out: their requests have no text")
    return worded, notes


def _records(
    name: str, calls: list[Call], models: tuple[str, ...], currency: str, text: TextRule, prices: Mapping[str, Price]
) -> Records:
    prompt_C = [call.text(text) for call in calls]
    split_C = given_splits(prompt_C, [call.split for call in calls])
    cells = _Cells([(same(prompt), split) for prompt, split in zip(prompt_C, split_C, strict=True)], calls, models)
    prompts, datasets = [""] * len(cells), [""] * len(cells)
    answers = np.full((len(cells), len(models)), None, dtype=object)
    for call, prompt, n in zip(calls, prompt_C, cells.row_C, strict=True):
        m = models.index(call.model)
        prompts[n] = prompts[n] or prompt
        answers[n, m] = call.answer if call.answer is not None else answers[n, m]
        datasets[n] = call.dataset or datasets[n]
    logprob_NM = cells.means(lambda call: call.logprob)
    checked_NM, check_cost_NM = cells.means(lambda call: call.checked), cells.means(lambda call: call.check_cost)
    inverse_NM = cells.means(lambda call: None if call.propensity is None else 1 / call.propensity)
    written_NM = cells.means(lambda call: call.written(prices.get(call.model)))
    splits = tuple(split or split_of(prompt) for (_, split), prompt in zip(cells.keys, prompts, strict=True))
    return Records(
        name=name,
        prompts=tuple(prompts),
        models=models,
        score_NM=cells.means(lambda call: call.score),
        cost_NM=cells.means(lambda call: call.paid(prices.get(call.model))),
        delay_NM=cells.means(lambda call: call.latency),
        datasets=tuple(datasets),
        splits=splits,
        currency=currency,
        answer_NM=answers if any(call.answer is not None for call in calls) else None,
        logprob_NM=_any(logprob_NM),
        checked_NM=_any(checked_NM),
        check_cost_NM=_any(check_cost_NM),
        notes=tuple(_notes(calls, cells, prices)),
        logged=Logged(text, cells.calls(), 1 / inverse_NM, written_NM),
    )


def _any(matrix_NM: Matrix) -> Matrix | None:
    """The matrix, unless no line had such a figure."""
    return matrix_NM if np.isfinite(matrix_NM).any() else None


class _Cells:
    """Which cell each call falls into.

    Args:
        key_C: (prompt, split) of each call.
        calls: C calls.
        models: M names.
    """

    def __init__(self, key_C: list[tuple[str, str]], calls: list[Call], models: tuple[str, ...]):
        self.keys = list(dict.fromkeys(key_C))
        row = {key: n for n, key in enumerate(self.keys)}
        self.row_C = np.array([row[key] for key in key_C])
        self._column_C = np.array([models.index(call.model) for call in calls])
        self._calls, self._shape = calls, (len(self.keys), len(models))

    def __len__(self) -> int:
        return len(self.keys)

    def means(self, value: Callable[[Call], float | None]) -> Matrix:
        """The mean of each cell over its calls, NaN without any; [N, M]."""
        value_C = np.array([np.nan if (found := value(call)) is None else found for call in self._calls], dtype=float)
        seen_C = np.isfinite(value_C)
        total, count = np.zeros(self._shape), np.zeros(self._shape)
        at = (self.row_C[seen_C], self._column_C[seen_C])
        np.add.at(total, at, value_C[seen_C])
        np.add.at(count, at, 1)
        return np.where(count > 0, total / np.maximum(count, 1), unknown(*self._shape))

    def calls(self) -> Matrix:
        """How many calls each cell has, NaN for none; [N, M]."""
        count = np.zeros(self._shape)
        np.add.at(count, (self.row_C, self._column_C), 1)
        return np.where(count > 0, count, np.nan)


def _notes(calls: list[Call], cells: _Cells, prices: Mapping[str, Price]) -> list[str]:
    notes = []
    if again := int((cells.calls() > 1).sum()):
        notes.append(f"{again} pairs of prompt and model occur several times in the log and were averaged")
    if reckoned := sum(call.cost is None and call.paid(prices.get(call.model)) is not None for call in calls):
        notes.append(f"the cost of {reckoned} calls was not logged and follows from their tokens and the prices")
    if assigned := sum(not split for _, split in cells.keys):
        notes.append(f"{assigned} prompts had no split and got one by their text, 60/20/20")
    return notes


def given_splits(prompt_C: list[str], split_C: list[str | None]) -> list[str]:
    """The split of each line: the one nearest to the test that any line gives its question; "" where none does."""
    given: dict[str, str] = {}
    for prompt, split in zip(prompt_C, split_C, strict=True):
        if split:
            given[same(prompt)] = max(split, given.get(same(prompt), split), key=SPLITS.index)
    return [split or given.get(same(prompt), "") for prompt, split in zip(prompt_C, split_C, strict=True)]


def split_of(prompt: str) -> str:
    """By the text, so that a question is on the same side in every log, however it is spaced and capitalised."""
    part = int.from_bytes(hashlib.sha256(same(prompt).encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    return "train" if part < 0.6 else "validation" if part < 0.8 else "test"
