"""Example prompts of a library's experts: from a file, beside or instead of those on the cards.

A file is JSONL with `expert` and `prompt` (a text) or `messages` (a chat) in every line. Examples that the base writes
itself are the matter of `roster.auto.written`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pydantic

from roster.errors import RosterError, nearest
from roster.files import numbered_lines, object_of
from roster.library.folder import Library
from roster.prompts import Message, Prompt


class Line(pydantic.BaseModel, extra="forbid", strict=True):
    """One line of a file of examples."""

    expert: str
    prompt: str | None = None
    messages: list[Message] | None = None


def read_examples(path: str | Path) -> dict[str, list[Prompt]]:
    """The prompts of each expert that a file names, in the file's order.

    Raises:
        RosterError: no such file, nothing in it, or a malformed line, with its number.
    """
    path = Path(path)
    found: dict[str, list[Prompt]] = {}
    for number, text in numbered_lines(path, "file of examples").items():
        line = _line(text, f"{path}, line {number}")
        found.setdefault(line.expert, []).append(line.messages or [] if line.prompt is None else line.prompt)
    if not found:
        raise RosterError(f"{str(path)!r} holds no examples")
    return found


def _line(text: str, where: str) -> Line:
    fields = object_of(text, where, "an object with expert and prompt")
    for name in fields.keys() - Line.model_fields.keys():
        raise RosterError(f"{where}: unknown field {name!r}: {nearest(name, Line.model_fields)}")
    try:
        line = Line(**fields)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise RosterError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if (line.prompt is None) == (line.messages is None):
        raise RosterError(f"{where}: give prompt (a text) or messages (a chat), one of them")
    return line


def with_examples(library: Library, examples: Mapping[str, Sequence[Prompt]]) -> Library:
    """The library with these prompts on the cards of the experts that they name, in place of what stood there.

    Raises:
        RosterError: an expert that is not in the library.
    """
    for name in examples:
        if name not in library:
            raise RosterError(
                f"there are examples of an expert {name!r}, which the library has not: {nearest(name, library.names)}"
            )
    adapters = {}
    for name, adapter in library.items():
        update = {"examples": list(examples[name])} if name in examples else {}
        adapters[name] = replace(adapter, card=adapter.card.model_copy(update=update))
    return Library(adapters)
