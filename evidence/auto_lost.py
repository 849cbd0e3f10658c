"""What a folder with other training runs, noisy copies and half-trained adapters loses against the trained ones alone.

Two things can be lost: a prompt goes elsewhere, or an adapter of its skill serves that answers worse. A duplicate, or
an adapter for part of a skill, has the trained one's weights and answers token for token as it does; so only prompts
that go to other weights are answered, by these and by the trained adapter of their skill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

import roster
from evidence.auto_ground import Ground
from roster.library import Library
from roster.prompts import Rendering
from roster.smol.answers import NEW_TOKENS
from roster.smol.base import load_base
from roster.smol.groups import Item

SAME = ("trained", "part", "duplicate")
"""Kinds that have a trained adapter's weights."""
GROUPS = ("known", "unseen")
BATCH = 16


def lost(
    ground: Ground, library: Library, kinds: Mapping[str, str], who: Mapping[str, Sequence[str | None]]
) -> dict[str, dict[str, float]]:
    """By group: how many were answered anew, and the points of right answers that they lose.

    Args:
        ground: the real one.
        library: the folder, with its weights.
        kinds: of each adapter.
        who: the adapter of each prompt of a group; None for the base.
    """
    items = {name: ground.items(name) for name in GROUPS}
    anew = [
        (name, item, adapter)
        for name in GROUPS
        for item, adapter in zip(items[name], who[name], strict=True)
        if adapter is not None and kinds[adapter] not in SAME and item.skill is not None
    ]
    if not anew:
        return {name: {"answered": 0, "points": 0.0} for name in GROUPS}
    names = sorted({adapter for _, _, adapter in anew} | {str(item.skill) for _, item, _ in anew})
    base, tokenizer = load_base()
    few = Library({each: library[each] for each in names})
    model = roster.load(base, experts=few, router="named", tokenizer=tokenizer).eval()
    asked = [item for _, item, _ in anew]
    theirs = _right(model, Rendering(tokenizer), asked, [adapter for _, _, adapter in anew])
    trained = _right(model, Rendering(tokenizer), asked, [str(item.skill) for item in asked])
    found = {}
    for group in GROUPS:
        at = [place for place, (name, _, _) in enumerate(anew) if name == group]
        fewer = sum(trained[place] - theirs[place] for place in at)
        found[group] = {"answered": len(at), "points": 100 * fewer / len(items[group])}
    return found


@torch.inference_mode()
def _right(model: Any, rendering: Rendering, items: Sequence[Item], adapters: Sequence[str]) -> list[int]:
    """1 for each right answer of the adapter that is named for it."""
    found = []
    for start in range(0, len(items), BATCH):
        some = items[start : start + BATCH]
        inputs = rendering.inputs([item.messages for item in some])
        made = model.generate(
            **inputs,
            tasks=list(adapters[start : start + BATCH]),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=rendering.pad_token_id,
        )
        said = rendering.tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found += [int(text.strip() == item.answer) for text, item in zip(said, some, strict=True)]
    return found
