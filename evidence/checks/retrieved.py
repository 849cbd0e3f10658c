"""Claims about choosing among finished adapters by the prompt alone: LoraRetriever, LORAUTER, AdapterSoup.

The pocket models' twelve experts; a ground draws some of them, luck the prompts; the loss of the answers counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any, Literal

import torch

from evidence.protocol.check import Check, Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster import pocket
from roster.adapters.attach import attach
from roster.library import Library
from roster.pocket.skills import Example, examples
from roster.recipes import find
from roster.train.data import Encoded, Row, collate

HELD = 6
PROMPTS = 20


@cache
def _experts() -> Library:
    return Library.read(pocket.experts_path())


def _drawn(draw: Draw, new: bool) -> tuple[list[str], list[str]]:
    """(Experts at hand, skills that are asked for): six experts, and those skills or a seventh that has no expert."""
    names = Random(draw.ground).sample(sorted(_experts().names), HELD + 1)
    return names[:HELD], [names[HELD]] if new else names[:HELD]


def _asked(draw: Draw, skills: Sequence[str]) -> list[Example]:
    many = 2 if draw.short else PROMPTS * HELD // len(skills)
    return [each for skill in skills for each in examples(skill, "test", many, seed=1 + draw.luck)]


def _swapped(library: Library) -> Library:
    """Every adapter under the next one's card: what it says of itself is wrong."""
    names = list(library.names)
    cards = [library[name].card for name in [*names[1:], names[0]]]
    return Library({name: replace(library[name], card=card) for name, card in zip(names, cards, strict=True)})


def answered(
    recipe: str, options: Mapping[str, Any] | None = None, *, new: bool = False, swap: bool = False
) -> Contender:
    """Answer loss of the experts at hand under a recipe that trains nothing."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.luck)
        names, skills = _drawn(draw, new)
        library = Library({name: _experts()[name] for name in names})
        return _loss(_swapped(library) if swap else library, recipe, options, _asked(draw, skills))

    return run


def told(new: bool = False) -> Contender:
    """Answer loss when every prompt is answered by its skill's own expert."""

    def run(draw: Draw) -> float:
        _, skills = _drawn(draw, new)
        parts = [_loss(Library({s: _experts()[s]}), "uniform", None, _asked(draw, [s])) for s in skills]
        return sum(parts) / len(parts)

    return run


@torch.no_grad()
def _loss(library: Library, recipe: str, options: Mapping[str, Any] | None, asked: Sequence[Example]) -> float:
    """The mean of the skills' nats per answer token."""
    base, tokenizer = pocket.load_base()
    model = attach(base, library, find(recipe)(options), tokenizer=tokenizer)
    found = []
    for skill in dict.fromkeys(each.skill for each in asked):
        rows = [Row(prompt=each.prompt, answer=each.answer, task=skill) for each in asked if each.skill == skill]
        data = Encoded(rows, tokenizer, None)
        found.append(float(model(**collate(list(data), tokenizer.pad_token_id)).loss))
    return sum(found) / len(found)


def _claim(
    slug: str,
    claim: str,
    asked: str,
    contenders: Mapping[str, tuple[str, Contender]],
    pairs: Pairs,
    asks: Literal["better", "no worse"] = "better",
) -> Check:
    return make_check(
        slug=slug,
        version=1,
        claim=claim,
        ground=f"pocket models: six of twelve finished adapters a seed, {asked}",
        budget="the same six adapters; nothing is trained",
        contenders=contenders,
        pairs=pairs,
        statistic=Statistic("nats per answer token, the mean of the skills", "lower", 0.05, asks),
    )


KNOWN = "120 prompts of their skills"
SWAPPED = "the same, every adapter under another one's card"
UNIFORM: tuple[str, Contender] = ("the updates of all six averaged: one merged adapter", answered("uniform"))
TOLD: tuple[str, Contender] = ("every prompt by its skill's own adapter", told())

CHECKS = (
    _claim(
        "loraretriever",
        "Retrieving adapters per prompt and averaging their outputs beats one merged adapter on mixed tasks.",
        KNOWN,
        {
            "LoraRetriever": ("the three whose examples are most like the prompt", answered("loraretriever")),
            "merged": UNIFORM,
            "swapped": (SWAPPED, answered("loraretriever", swap=True)),
            "told": (f"control: {TOLD[0]}", TOLD[1]),
        },
        Pairs("LoraRetriever", "merged", "swapped", "told", "merged"),
    ),
    _claim(
        "lorauter",
        "Routing to tasks by their embeddings matches an oracle where an adapter for the task exists.",
        KNOWN,
        {
            "LORAUTER": ("the three nearest tasks, weighed by similarity", answered("lorauter")),
            "told": TOLD,
            "swapped": (SWAPPED, answered("lorauter", swap=True)),
            "merged": (f"control, a handicap: {UNIFORM[0]}", UNIFORM[1]),
        },
        Pairs("LORAUTER", "told", "swapped", "merged", "told"),
        "no worse",
    ),
    _claim(
        "adapter-soup",
        "For a new domain the average of the adapters of similar domains beats the single best and that of all.",
        "120 prompts of a seventh skill",
        {
            "soup": ("the three whose examples are most like the prompt, averaged", answered("adapter-soup", new=True)),
            "single or all": (
                "the better of the one most alike and the average of all six, chosen on the test",
                lambda draw: min(
                    answered("adapter-soup", {"top_k": 1}, new=True)(draw), answered("uniform", new=True)(draw)
                ),
            ),
            "swapped": (SWAPPED, answered("adapter-soup", new=True, swap=True)),
            "told": ("control: the seventh skill's own adapter", told(new=True)),
        },
        Pairs("soup", "single or all", "swapped", "told", "single or all"),
    ),
)
