"""Calibration texts: rows of a JSONL file as tokens, the way the model will read them.

A line has `messages` (a chat, rendered with the template, answers included), `text` (as it stands), or `prompt` with
`answer` or without. Without a file, Python's own documentation serves.

Shape legend: B rows, S tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roster.errors import RosterError, nearest
from roster.files import numbered_lines, object_of
from roster.prompts import Rendering, padded

FIELDS = ("messages", "text", "prompt", "answer")
ROWS, LENGTH = 64, 512


@dataclass(frozen=True)
class Texts:
    """Tokens to calibrate on, padded on the right.

    Attributes:
        ids_BS, mask_BS: tokens, and which of them are there.
    """

    ids_BS: Tensor
    mask_BS: Tensor

    @property
    def tokens(self) -> int:
        """How many there are."""
        return int(self.mask_BS.sum())


def read_texts(path: str | Path | None, folder: Path, rows: int = ROWS, length: int = LENGTH) -> Texts:
    """The first rows of a file, each cut to a length.

    Args:
        path: JSONL; None for Python's documentation.
        folder: of the model, whose tokenizer reads.
        rows: how many at most.
        length: tokens of a row at most.

    Raises:
        RosterError: no file, nothing in it, a malformed line (with its number), or a model without a tokenizer.
    """
    if rows < 1 or length < 2:
        raise RosterError(f"rows={rows} and length={length}: there must be a row, and two tokens of it")
    tokenizer = _tokenizer(folder)
    rendering = Rendering.of(tokenizer)
    found = _documentation(tokenizer, length) if path is None else _lines(Path(path), rendering)
    ids = []
    for row in found:
        if len(row) > 1:
            ids.append(row[:length])
        if len(ids) == rows:
            break
    if not ids:
        raise RosterError(f"{str(path)!r} holds no row of two tokens to calibrate on")
    both = padded(ids, rendering.pad_token_id, "right")
    return Texts(both["input_ids"], both["attention_mask"])


def as_texts(ids: Iterable[list[int]], pad: int = 0) -> Texts:
    """Rows of tokens that are there already."""
    both = padded(list(ids), pad, "right")
    return Texts(both["input_ids"], both["attention_mask"])


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not any(folder.glob("tokenizer*")):
        raise RosterError(f"{str(folder)!r} has no tokenizer, so that no text can be read with it")
    return AutoTokenizer.from_pretrained(str(folder))


def _documentation(tokenizer: Any, length: int) -> Iterator[list[int]]:
    from pydoc_data.topics import topics

    # Whole topics one after the other, cut into rows.
    rest: list[int] = []
    for name in sorted(topics):
        rest += tokenizer(topics[name], add_special_tokens=False)["input_ids"]
        while len(rest) >= length:
            yield rest[:length]
            rest = rest[length:]
    yield rest


def _lines(path: Path, rendering: Rendering) -> Iterator[list[int]]:
    for number, line in numbered_lines(path).items():
        yield _ids(_fields(line, f"{path}, line {number}"), rendering, f"{path}, line {number}")


def _fields(line: str, where: str) -> Mapping[str, Any]:
    fields = object_of(line, where, "an object with messages, text or prompt")
    given = [name for name in FIELDS[:3] if fields.get(name)]
    if len(given) != 1:
        unknown = next((name for name in fields if name not in FIELDS), None)
        hint = f"; unknown field {unknown!r}: {nearest(unknown, FIELDS)}" if unknown and not given else ""
        raise RosterError(f"{where}: give messages, text or prompt, one of them{hint}")
    wrong = next((name for name in ("text", "prompt", "answer") if not isinstance(fields.get(name), str | None)), None)
    if wrong or not isinstance(fields.get("messages") or [], list):
        raise RosterError(f"{where}: {wrong or 'messages'} is a {type(fields[wrong or 'messages']).__name__}")
    return fields


def _ids(fields: Mapping[str, Any], rendering: Rendering, where: str) -> list[int]:
    if text := fields.get("text"):
        return list(rendering.tokenizer(text)["input_ids"])
    asked: Any = fields.get("prompt") or fields["messages"]
    answer = fields.get("answer")
    if answer is None and isinstance(asked, list) and asked[-1].get("role") == "assistant":
        asked, answer = asked[:-1], asked[-1].get("content")
    try:
        if answer is None:
            return rendering.ids(asked)
        before, after = rendering.pair(asked, answer)
    except (RosterError, KeyError, AttributeError) as error:
        raise RosterError(f"{where}: {error}") from None
    return before + after


def digest(texts: Texts) -> str:
    """Names the texts in reports."""
    import hashlib

    return hashlib.sha256(texts.ids_BS.to(torch.int64).numpy().tobytes()).hexdigest()[:16]
