"""Direct translation with task-level experts: between two languages it beats going by way of a third.

A meaning of 8 numbers is said in five languages, each a random map of it into 12 numbers, squashed, with noise and a
mark of the language. As in the source, the directions that are judged were trained: those between languages other than
the first, directly and by way of the first. Directions that were held out stand beside them.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from evidence.checks.blocks import Batch, Net, error, train
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

LANGUAGES, MEANING, WORDS, MARK, HIDDEN, STEPS, ROWS = 5, 8, 12, 4, 48, 2000, 8
PAIRS = list(itertools.permutations(range(LANGUAGES), 2))
TASKS = tuple(f"{source}-{target}" for source, target in PAIRS)
HELD_OUT = [PAIRS.index(pair) for pair in ((1, 2), (2, 3), (3, 4), (4, 1))]
TRAINED = [index for index in range(len(PAIRS)) if index not in HELD_OUT]
JUDGED = [index for index in TRAINED if 0 not in PAIRS[index]]


class Languages:
    """How each language says a meaning."""

    def __init__(self) -> None:
        self.say_LMW = torch.randn(LANGUAGES, MEANING, WORDS) * MEANING**-0.5
        self.mark_LK = torch.randn(LANGUAGES, MARK)

    def text(self, meaning_BM: Tensor, language: int) -> Tensor:
        """[B, W]"""
        return torch.tanh(meaning_BM @ self.say_LMW[language]) + 0.05 * torch.randn(len(meaning_BM), WORDS)

    def read(self, text_BW: Tensor, language: int) -> Tensor:
        """What a model reads: the text and the mark of its language, [B, W + K]."""
        return torch.cat([text_BW, self.mark_LK[language].expand(len(text_BW), -1)], 1)

    def draw(self, pairs: list[int], rows: int) -> Batch:
        """Parallel texts of these directions."""
        parts = []
        for pair in pairs:
            source, target = PAIRS[pair]
            meaning_BM = torch.randn(rows, MEANING)
            x_BD = self.read(self.text(meaning_BM, source), source)
            parts.append((x_BD, self.text(meaning_BM, target), torch.full((rows,), pair)))
        x_BD, y_BO, task_B = (torch.cat(each) for each in zip(*parts, strict=True))
        return x_BD, y_BO, task_B


@lru_cache(maxsize=4)
def _trained(draw: Draw, by: str, hidden: int) -> tuple[Net, Languages]:
    torch.manual_seed(draw.ground)
    languages = Languages()
    torch.manual_seed(draw.luck + 1_000)
    options = {"width": WORDS + MARK, "hidden": hidden, "out": WORDS, "tasks": TASKS, "depth": 3}
    if by == "nobody":  # the same blocks, the last one dense: it is not told which language is wanted
        made = Net("dense-active", {}, **options)
    else:
        made = Net("direct-nmt-task-moe", {"by": by}, dense=2, **options)
    train(made, lambda: languages.draw(TRAINED, ROWS), draw.steps(STEPS))
    return made, languages


def _translated(by: str, pivot: bool, pairs: list[int], hidden: int = HIDDEN) -> Contender:
    def run(draw: Draw) -> float:
        made, languages = _trained(draw, by, hidden)
        torch.manual_seed(draw.ground + 500_000)
        batches = [(pair, languages.draw([pair], 500)) for pair in pairs]
        way = _by_the_first if pivot else _directly
        return float(np.mean([way(made, languages, batch, pair) for pair, batch in batches]))

    return run


def _directly(made: Net, _languages: Languages, batch: Batch, _pair: int) -> float:
    return error(made, batch)


@torch.no_grad()
def _by_the_first(made: Net, languages: Languages, batch: Batch, pair: int) -> float:
    source, target = PAIRS[pair]
    x_BD, y_BO, _ = batch
    first_BD = languages.read(made(x_BD, torch.full((len(x_BD),), PAIRS.index((source, 0)))), 0)
    return error(made, (first_BD, y_BO, torch.full((len(x_BD),), PAIRS.index((0, target)))))


CHECKS = (
    make_check(
        slug="direct-nmt-task-moe",
        version=1,
        claim="A mixture routed by task translates directly between two languages better than by way of a third.",
        ground="5 made-up languages, 16 of 20 directions trained, 2,000 steps of 8 rows each; judged on the trained "
        "directions without the first language",
        budget="one model for both ways, three blocks of 48 units of which the last has experts; the way by the third "
        "language costs twice the arithmetic",
        contenders={
            "direct": ("experts by target language, directly", _translated("target", False, JUDGED)),
            "pivot": ("the same model, by way of the first language", _translated("target", True, JUDGED)),
            "nobody": ("directly, the last block dense: without task experts", _translated("nobody", False, JUDGED)),
            "held out": ("directly, directions that were never trained", _translated("target", False, HELD_OUT)),
            "wide": ("control: directly, four times the units", _translated("target", False, JUDGED, 4 * HIDDEN)),
            "narrow": ("control: directly, an eighth of the units", _translated("target", False, JUDGED, HIDDEN // 8)),
        },
        pairs=Pairs("direct", "pivot", "nobody", "wide", "narrow"),
        statistic=Statistic("relative squared error on fresh texts", "lower", 0.02),
    ),
)
