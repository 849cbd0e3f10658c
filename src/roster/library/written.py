"""Example prompts that the base writes itself, for experts whose cards have a description and no examples.

They are a makeshift: a small base writes few good ones, and their wordings are its own. Whoever calls this is told.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch

from roster.errors import RosterError, RosterNote
from roster.library.folder import Library
from roster.prompts import Rendering

ASKED, TOKENS = 16, 48
_NAMED = 5
_REQUEST = (
    "Imagine a user who wants an assistant to do this: {} Write one short message that the user could send, with a "
    "concrete case in it. Write the message only."
)


def written(model: Any, library: Library, rendering: Rendering, seed: int = 0) -> Library:
    """The library, with examples on the cards that had a description only; a note says whose they are.

    Args:
        model: the plain base, a causal one.
        library: the experts.
        rendering: how prompts become tokens.
        seed: of the draw.

    Raises:
        RosterError: the base writes nothing that could be used.
    """
    bare = [name for name in library.names if not library[name].card.examples and library[name].card.description]
    if not bare:
        return library
    adapters = dict(library)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name in bare:
            card = library[name].card
            examples = _examples(model, rendering, card.description)
            if not examples:
                raise RosterError(
                    f"the base wrote no example prompt from the description of expert {name!r}: write some 20 into the "
                    'field "examples" of its card'
                )
            adapters[name] = replace(library[name], card=card.model_copy(update={"examples": examples}))
    others = " and others" if len(bare) > _NAMED else ""
    warnings.warn(
        f"the base itself wrote example prompts for {', '.join(bare[:_NAMED])}{others}, from "
        "the descriptions on their cards: prompts that users typed would route better",
        RosterNote,
        stacklevel=2,
    )
    return Library(adapters)


@torch.no_grad()
def _examples(model: Any, rendering: Rendering, description: str) -> list[str]:
    """Different first lines of so many draws."""
    ids = torch.tensor([rendering.ids(_REQUEST.format(description.rstrip(".") + "."))], device=model.device)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=0.9,
        top_p=0.95,
        num_return_sequences=ASKED,
        max_new_tokens=TOKENS,
        pad_token_id=rendering.pad_token_id,
    )
    texts = (rendering.tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True).strip() for row in out)
    lines = (text.splitlines()[0].strip().strip('"').strip() for text in texts if text)
    return list(dict.fromkeys(line for line in lines if line))
