"""The card of an expert: what it is for, in a file that a person can write (`card.json` beside the adapter)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pydantic

from roster.errors import RosterError, nearest
from roster.files import write_whole
from roster.prompts import Message

CARD = "card.json"
_TEXT = "must be a text"
_SHOULD_BE = {
    "task": "must be a text, the short name of what the expert is for",
    "examples": 'must be a list of prompts: texts, or chats such as [{"role": "user", "content": "Hello"}]',
}
"""What to write instead, by field."""


class Card(pydantic.BaseModel, extra="forbid", strict=True):
    """What an expert is for.

    Attributes:
        task: a short name; experts of one task share it.
        description: one sentence.
        examples: prompts as users would type them, without answers: texts, or chats as lists of messages.
        base: public name of the base it belongs to.
        base_hash: digest of that base's fingerprint (see `fingerprint.py`).
        weights_hash: of the adapter it describes; another hash there means that the card is stale.
        template: digest of the chat template that it was trained with (`Rendering.digest`), or "raw".
    """

    task: str
    description: str = ""
    examples: list[str | list[Message]] = []
    base: str | None = None
    base_hash: str | None = None
    weights_hash: str | None = None
    template: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card in a folder; without one, a card whose task is the folder's name.

        Raises:
            RosterError: no JSON, an unknown field, or a value of the wrong kind.
        """
        path = folder / CARD
        if not path.exists():
            return cls(task=Path(os.path.abspath(folder)).name)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RosterError(f"{str(path)!r} is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise RosterError(f"{str(path)!r} must hold an object with a task, not a {type(fields).__name__}")
        for name in sorted(fields.keys() - cls.model_fields.keys()):
            raise RosterError(f"{str(path)!r} has an unknown field {name!r}: {nearest(name, cls.model_fields)}")
        try:
            return cls(**fields)
        except pydantic.ValidationError as error:
            raise RosterError(f"{str(path)!r}: {_complaint(fields, error.errors()[0]['loc'])}") from None

    def write(self, folder: Path) -> Path:
        """Writes `card.json`, whole or not at all."""
        text = self.model_dump_json(indent=1) + "\n"
        return write_whole(folder / CARD, text.encode())


def _complaint(fields: dict[str, Any], place: tuple[int | str, ...]) -> str:
    """What is wrong with a field and what it should be, from the place where reading it failed."""
    field, where = str(place[0]), ""
    if field not in fields:
        return f"field {field!r} is missing: it {_SHOULD_BE.get(field, _TEXT)}"
    found = fields[field]
    if isinstance(found, list) and len(place) > 1 and isinstance(place[1], int):
        found, where = found[place[1]], f", item {place[1] + 1},"
    return f"field {field!r}{where} {_SHOULD_BE.get(field, _TEXT)}; not {json.dumps(found)[:80]}"
