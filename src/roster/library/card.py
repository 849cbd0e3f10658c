"""The card of an expert: what it is for, in a file that a person can write (`card.json` beside the adapter)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pydantic

from roster.errors import RosterError, nearest
from roster.files import write_whole

CARD = "card.json"


class Card(pydantic.BaseModel, extra="forbid", strict=True):
    """What an expert is for.

    Attributes:
        task: a short name; experts of one task share it.
        description: one sentence.
        examples: prompts as users would type them, without answers.
        base: public name of the base it belongs to.
        base_hash: digest of that base's fingerprint (see `fingerprint.py`).
        weights_hash: of the adapter it describes; another hash there means that the card is stale.
    """

    task: str
    description: str = ""
    examples: list[str] = []
    base: str | None = None
    base_hash: str | None = None
    weights_hash: str | None = None

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
            first = error.errors()[0]
            raise RosterError(f"{str(path)!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def write(self, folder: Path) -> Path:
        """Writes `card.json`, whole or not at all."""
        text = self.model_dump_json(indent=1) + "\n"
        return write_whole(folder / CARD, text.encode())
