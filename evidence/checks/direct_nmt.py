"""Direct translation with task-level experts: a direction that was never trained beats going by way of a third.

Toy: a meaning of 8 numbers is said in five languages, each a random map of the meaning into 12 numbers, squashed,
with noise and a mark of the language. All directions from and to the first language are trained, and all others but
four. Those are translated directly and by way of the first language. Routes are shared by target language, or belong
to a pair; to a pair that was never trained belongs a route that was never trained. The first two of three blocks are
shared by all directions. This is the second try: in the first both of two blocks were routed, and nothing was shared
by the targets."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from evidence.checks.blocks import Batch, Net, error, train

LANGUAGES, MEANING, WORDS, MARK, HIDDEN, STEPS, ROWS = 5, 8, 12, 4, 48, 2000, 8
PAIRS = list(itertools.permutations(range(LANGUAGES), 2))
TASKS = tuple(f"{source}-{target}" for source, target in PAIRS)
HELD_OUT = [PAIRS.index(pair) for pair in ((1, 2), (2, 3), (3, 4), (4, 1))]
TRAINED = [index for index in range(len(PAIRS)) if index not in HELD_OUT]


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
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def check(seed: int) -> dict[str, float]:
    """Relative errors on held-out directions, and on trained ones between languages other than the first."""
    torch.manual_seed(seed)
    languages = Languages()
    others = [index for index in TRAINED if 0 not in PAIRS[index]]
    figures = {}
    for by in ("target", "pair"):
        torch.manual_seed(seed + 100)
        net = Net(
            "direct-nmt-task-moe",
            {"by": by},
            width=WORDS + MARK,
            hidden=HIDDEN,
            out=WORDS,
            tasks=TASKS,
            depth=3,
            dense=2,
        )
        train(net, lambda: languages.draw(TRAINED, ROWS), STEPS)
        for name, pairs in (("held-out", HELD_OUT), ("trained", others)):
            batches = [languages.draw([pair], 500) for pair in pairs]
            figures[f"by {by}: {name}, direct"] = float(np.mean([error(net, batch) for batch in batches]))
            pivoted = [_pivot(net, languages, batch, pair) for batch, pair in zip(batches, pairs, strict=True)]
            figures[f"by {by}: {name}, by way of the first"] = float(np.mean(pivoted))
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed, with routes by target, held-out directions have a lower error directly than by the first."""
    return all(
        each["by target: held-out, direct"] < each["by target: held-out, by way of the first"] for each in figures
    )


@torch.no_grad()
def _pivot(net: Net, languages: Languages, batch: Batch, pair: int) -> float:
    source, target = PAIRS[pair]
    x_BD, y_BO, _ = batch
    to_first = torch.full((len(x_BD),), PAIRS.index((source, 0)))
    first_BD = languages.read(net(x_BD, to_first), 0)
    return error(net, (first_BD, y_BO, torch.full((len(x_BD),), PAIRS.index((0, target)))))
