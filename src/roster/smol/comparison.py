"""What `roster demo --real` asks: prompts of every group of the real ground, for the adapters that a folder holds."""

from __future__ import annotations

from collections.abc import Sequence

from roster.library import Library
from roster.smol.groups import Item, group
from roster.smol.skills import TRAINED
from roster.train.data import Row

NEW_TOKENS = 24
"""Longer than any right answer."""
_NOBODY, _CHATS = 10, 5
"""Nobody's prompts and switching chats, for each example a skill."""


def rows(library: Library, count: int) -> list[Row]:
    """Prompts of known and unseen wordings, nobody's prompts and switching chats.

    Args:
        library: adapters whose cards name trained skills.
        count: prompts a skill, in known and in unseen wordings each.
    """
    named = {adapter.card.task for adapter in library.values()}
    trained = [name for name in TRAINED if name in named]
    asked = [*group("known", count, trained), *group("unseen", count, trained)]
    asked += [*group("nobody", _NOBODY * count, trained), *group("switching", _CHATS * count, trained)]
    return as_rows(asked)


def as_rows(items: Sequence[Item]) -> list[Row]:
    """Items of test groups as rows of data."""
    return [
        Row.model_validate(
            {
                "messages": [dict(turn) for turn in each.messages],
                "answer": each.answer,
                "task": each.skill,
                "group": each.group,
            }
        )
        for each in items
    ]
