"""Whether adapters were trained with the chat template that prompts are about to go through.

Cards say it in their field `template`; what they do not say is not asked.
"""

from __future__ import annotations

import warnings

from roster.errors import RosterError, RosterNote
from roster.library.folder import Library
from roster.prompts import RAW, Rendering
from roster.shelf.card import CARD


def check_templates(library: Library, rendering: Rendering) -> None:
    """Holds every card's template against how prompts are rendered; one line tells of experts trained on raw text.

    Raises:
        RosterError: an expert was trained with another template, or with one where the tokenizer has none. Prompts that
            are left as they stand on purpose (`template=False`) are the caller's business.
    """
    if not rendering.template:
        return
    raw = []
    for name in library.names:
        trained = library[name].card.template
        if trained is None or trained == rendering.digest:
            continue
        if trained == RAW:
            raw.append(name)
            continue
        has = "which has none" if rendering.digest == RAW else f"whose chat template is {rendering.digest}"
        raise RosterError(
            f"expert {name!r} was trained with the chat template {trained}, but prompts go through a tokenizer {has}: "
            f"use the tokenizer that it was trained with, or take `template` out of its {CARD} if both do the same"
        )
    if raw:
        warnings.warn(
            f"trained on raw text: {', '.join(map(repr, raw))}; but prompts go through the tokenizer's chat template "
            "(--no-template, or template=False, leaves them as they stand)",
            RosterNote,
            stacklevel=2,
        )
