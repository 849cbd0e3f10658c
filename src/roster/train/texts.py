"""What a whole model learns from: rows with answers, or plain text in pieces of one length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from roster.errors import RosterError
from roster.files import numbered_lines, object_of
from roster.prompts import Rendering
from roster.train.data import Encoded, read_rows

FEWEST = 2
"""Tokens of a piece: one to read and one to say."""


class Pieces(torch.utils.data.Dataset[dict[str, Any]]):
    """Texts one after the other, an end of the sequence behind each, cut into pieces; every token is learned.

    Args:
        texts: as they stand.
        tokenizer: of the model.
        length: tokens of a piece; what is left at the end is a shorter one.

    Raises:
        RosterError: a length that leaves nothing to learn, or too little text.
    """

    def __init__(self, texts: list[str], tokenizer: Any, length: int):
        if length < FEWEST:
            raise RosterError(f"a piece of text needs {FEWEST} tokens to learn from, not {length}")
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ids = [each for text in texts for each in [*tokenizer(text, add_special_tokens=False)["input_ids"], *end]]
        cut = [ids[at : at + length] for at in range(0, len(ids), length)]
        self.items = [{"input_ids": piece, "labels": list(piece)} for piece in cut if len(piece) >= FEWEST]
        if not self.items:
            raise RosterError("the data hold no two tokens to learn from")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]


Lessons = Encoded | Pieces


def read_lessons(
    path: str | Path, rendering: Rendering, length: int, limit: int | None, tasks: dict[str, int] | None = None
) -> Lessons:
    """Reads a data file.

    Args:
        path: JSONL whose lines have `prompt` (or `messages`) and `answer`, of which the answers are learned, or `text`,
            of which all is; or any other file, which is one text.
        rendering: how prompts become tokens.
        length: tokens of a piece of text.
        limit: tokens that the model's context holds.
        tasks: index of each known task, for recipes that route by task.

    Raises:
        RosterError: no such file, a malformed line (with its number), a row or piece that is too long, or no row that
            names a known task where tasks are needed.
    """
    path = Path(path)
    if not path.is_file():
        raise RosterError(f"there is no data file {str(path)!r}")
    texts = _texts(path)
    if texts is None:
        rows = read_rows(path)
        if tasks is not None and not any(row.task in tasks for row in rows):
            raise RosterError(f"the recipe learns by task, but no row of {str(path)!r} names one of {list(tasks)}")
        return Encoded(rows, rendering, limit, tasks)
    if tasks is not None:
        raise RosterError(
            f"the recipe learns by task, and the texts of {str(path)!r} have none: give rows that name it"
        )
    if limit is not None and length > limit:
        raise RosterError(f"a piece of text would have {length} tokens; the model's context holds {limit}")
    return Pieces(texts, rendering.tokenizer, length)


def _texts(path: Path) -> list[str] | None:
    """The texts of a file; None where it holds rows."""
    if path.suffix != ".jsonl":
        try:
            return [path.read_text(encoding="utf-8")]
        except UnicodeDecodeError as error:
            raise RosterError(f"{str(path)!r} is not UTF-8 text: {error}") from None
    found: list[str] = []
    for number, line in numbered_lines(path).items():
        fields = object_of(line, f"{path}, line {number}")
        text = fields.get("text") if set(fields) == {"text"} else None
        if not found and text is None:
            return None
        if not isinstance(text, str):
            raise RosterError(f"{path}, line {number}: the first line has text alone, and so must all others")
        found.append(text)
    return found
