"""Rows of training and evaluation data: a prompt, the answer wanted, and the task it belongs to.

Shape legend: B rows of a batch, S tokens of its longest row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import Tensor

from roster.errors import RosterError, nearest
from roster.files import numbered_lines, object_of
from roster.prompts import Message, Prompt, Rendering, padded

IGNORED = -100


class Row(pydantic.BaseModel, extra="forbid", strict=True):
    """One line of a data file: a prompt or a chat, and what should be said next.

    Attributes:
        prompt: what the model is asked, as a text.
        messages: the same as a chat, in place of `prompt`; where it ends with the assistant's turn, that is the answer.
        answer: what it should say; null where the base should answer in its own way.
        task: for recipes that route by task, and for tables that group by it.
        group: of a test, for tables that group by it.
    """

    prompt: str | None = pydantic.Field(default=None, min_length=1)
    messages: list[Message] | None = pydantic.Field(default=None, min_length=1)
    answer: str | None
    task: str | None = None
    group: str | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _one_prompt(cls, fields: Any) -> Any:
        """Takes an answer off the end of a chat; an error unless one prompt is given."""
        if not isinstance(fields, Mapping):
            return fields
        if (fields.get("prompt") is None) == (fields.get("messages") is None):
            raise ValueError("a row has either a prompt or messages")
        turns = fields.get("messages")
        last = turns[-1] if isinstance(turns, list) and turns else None
        if isinstance(turns, list) and isinstance(last, Mapping) and last.get("role") == "assistant":
            if fields.get("answer") is not None:
                raise ValueError("messages end with the assistant's turn, and there is an answer beside them: give one")
            return {**fields, "messages": turns[:-1], "answer": last.get("content")}
        return fields

    @property
    def asked(self) -> Prompt:
        """The prompt, whichever way it was given."""
        return self.prompt if self.prompt is not None else self.messages or []


def digest_of(rows: Sequence[Row]) -> str:
    """SHA-256 of all rows in their order."""
    return hashlib.sha256("\n".join(row.model_dump_json() for row in rows).encode()).hexdigest()


def read_rows(path: str | Path) -> list[Row]:
    """Reads a JSONL file; blank lines are skipped. Raises as `numbered_rows` does."""
    return list(numbered_rows(path).values())


def numbered_rows(path: str | Path, answers: bool = True) -> dict[int, Row]:
    """The same by the number of each row's line, counted from 1, for errors that name it.

    Args:
        path: the file.
        answers: False takes lines without an answer, too.

    Raises:
        RosterError: no such file, no rows, or a malformed line, with its number.
    """
    path = Path(path)
    rows = {number: _row(line, f"{path}, line {number}", answers) for number, line in numbered_lines(path).items()}
    if not rows:
        raise RosterError(f"{str(path)!r} holds no rows")
    return rows


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a JSONL file whose lines may do without an answer. Raises as `numbered_rows` does."""
    return [row.asked for row in numbered_rows(path, answers=False).values()]


def _row(line: str, where: str, answers: bool = True) -> Row:
    fields = object_of(line, where, "an object with prompt or messages, and answer")
    for name in fields.keys() - Row.model_fields.keys():
        raise RosterError(f"{where}: unknown field {name!r}: {nearest(name, Row.model_fields)}")
    try:
        return Row(**(fields if answers else {"answer": None, **fields}))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        what = [".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")]
        raise RosterError(f"{where}: {': '.join(filter(None, what))}") from None


class Encoded(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows as tokens: the prompt is read, the answer and the end of the sequence are learned.

    Args:
        rows: the data.
        tokenizer: of the base, or a `Rendering` of it; must know an end of the sequence.
        limit: tokens that the model's context holds.
        task_ids: index of each known task, for recipes that route by task; -1 for the others.
    """

    def __init__(self, rows: Sequence[Row], tokenizer: Any, limit: int | None, task_ids: dict[str, int] | None = None):
        rendering, self.items = Rendering.of(tokenizer), []
        for number, row in enumerate(rows, 1):
            if row.answer is None:
                raise RosterError(f"row {number} of the data has no answer to learn")
            asked, told = rendering.pair(row.asked, row.answer)
            if limit is not None and len(asked) + len(told) > limit:
                raise RosterError(
                    f"row {number} of the data has {len(asked) + len(told)} tokens; the model's context holds {limit}"
                )
            item: dict[str, Any] = {"input_ids": asked + told, "labels": [IGNORED] * len(asked) + told}
            if task_ids is not None:
                item["task_ids"] = -1 if row.task is None else task_ids.get(row.task, -1)
            self.items.append(item)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]


def collate(items: Sequence[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """Pads rows on the right: ids, mask and labels [B, S], task ids [B] where there are any."""
    batch = padded([item["input_ids"] for item in items], pad, "right")
    batch["labels"] = padded([item["labels"] for item in items], IGNORED, "right")["input_ids"]
    if "task_ids" in items[0]:
        batch["task_ids"] = torch.tensor([item["task_ids"] for item in items])
    return batch
