"""Token-level adaptation's claim: when a text changes its task, weights per token beat any fixed weights.

A text is prompt A, answer A, prompt B, answer B: two tasks of the pocket models, one after the other, under teacher
forcing. The baseline is the best fixed choice for the two tasks, found on the test itself: either expert, or both.

Shape legend: S tokens of a text.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster import pocket
from roster.adapters.attach import attach
from roster.adapters.mixing import Mixing
from roster.library import Library
from roster.pocket.skills import Example, examples
from roster.recipes import find
from roster.recipes.lora_tle import lora_tle

NAMES = ("reverse", "shift", "upper", "twice", "vowels", "sort")
PAIRS = list(combinations(NAMES, 2))
TEXTS, WINDOW = 40, 12
Losses = tuple[float, float]
"""Nats per answer token of the first task and of the second."""


def _pair(draw: Draw) -> tuple[str, str]:
    first, second = Random(draw.ground).sample(PAIRS, 1)[0]
    return (first, second) if draw.ground % 2 else (second, first)


@lru_cache(maxsize=16)
def _losses(draw: Draw, way: str) -> Losses:
    first, second = _pair(draw)
    everything = Library.read(pocket.experts_path())
    model, tokenizer = pocket.load_base()
    names = {"first": (first,), "second": (second,)}.get(way, (first, second))
    attach(model, Library({name: everything[name] for name in names}), _mixing(way), tokenizer=tokenizer)
    found = []
    for a, b in _texts(draw, first, second):
        ids_S, part_S = _encoded(tokenizer, (a, b))
        with torch.no_grad():
            logits = model(input_ids=ids_S[None]).logits[0]
        loss_S = F.cross_entropy(logits[:-1], ids_S[1:], reduction="none")
        found.append([float(loss_S[part_S[1:] == part].mean()) for part in (1, 2)])
    one, two = np.mean(found, axis=0).tolist()
    return one, two


def _mixing(way: str) -> Mixing:
    windows = {"per token": WINDOW, "whole prefix": None}
    made: Mixing = lora_tle(window=windows[way], embed="hidden") if way in windows else find("uniform")()
    return made


def _texts(draw: Draw, first: str, second: str) -> list[tuple[Example, Example]]:
    dice = Random(draw.luck)
    many = 2 if draw.short else TEXTS
    drawn = [dice.sample(list(examples(name, "test", 4 * TEXTS)), many) for name in (first, second)]
    return list(zip(*drawn, strict=True))


def _encoded(tokenizer: Any, parts: tuple[Example, Example]) -> tuple[Tensor, Tensor]:
    """(Token ids, 1 or 2 where a token is of that task's answer, else 0), both [S]."""
    ids: list[int] = []
    part: list[int] = []
    for number, each in enumerate(parts, 1):
        asked = tokenizer(each.prompt)["input_ids"]
        said = [*tokenizer(each.prompt + each.answer)["input_ids"][len(asked) :], tokenizer.eos_token_id]
        ids += asked + said
        part += [0] * len(asked) + [number] * len(said)
    return torch.tensor(ids), torch.tensor(part)


def _mean(way: str) -> Contender:
    return lambda draw: float(np.mean(_losses(draw, way)))


def _best_fixed(draw: Draw) -> float:
    return min(float(np.mean(_losses(draw, way))) for way in ("first", "second", "uniform"))


def _told(draw: Draw) -> float:
    """Each part by its own expert."""
    return (_losses(draw, "first")[0] + _losses(draw, "second")[1]) / 2


CHECKS = (
    make_check(
        slug="lora-tle",
        version=1,
        claim="On a text that changes its task, weights per token have a lower loss than any fixed weights.",
        ground="pocket models: 40 texts of two tasks one after the other, teacher forcing; two of six experts a seed",
        budget="the same two experts; nothing is trained; the weights read the base's hidden states, a second pass",
        contenders={
            "per token": ("weights by the mean of the last 12 tokens' hidden states", _mean("per token")),
            "whole prefix": ("weights by the mean of all tokens so far", _mean("whole prefix")),
            "fixed": ("the best of either expert alone and both alike, chosen on the test", _best_fixed),
            "told": ("control: each part by its own expert", _told),
        },
        pairs=Pairs("per token", "fixed", "fixed", "told", "fixed"),
        statistic=Statistic("nats per answer token, the mean of both tasks", "lower", 0.05),
    ),
)
