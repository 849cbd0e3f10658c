"""Facts to remember: words times relations, each pair with an answer drawn at random; the ground of token-id routing.

A word and a relation are embedded (8 numbers, trained), one block reads their sum, and a linear head answers. Words may
be drawn with frequencies that fall with their rank.

Shape legend: T questions, D width, V words, N relations, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.protocol.check import Contender, Draw
from roster.context import Context
from roster.experts import SwiGLU
from roster.moe.layout import Place
from roster.recipes import find
from roster.train.schedule import advance

WORDS, RELATIONS, ANSWERS, WIDTH, HIDDEN, STEPS, ROWS = 800, 4, 32, 8, 32, 1200, 256
RARE = 0.5
"""Share of the words, those of the lowest frequencies, that count as rare."""


class Recall(nn.Module):
    """Answers questions by one block."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.word, self.relation = nn.Embedding(WORDS, WIDTH), nn.Embedding(RELATIONS, WIDTH)
        self.block, self.norm, self.head = block, nn.RMSNorm(WIDTH), nn.Linear(WIDTH, ANSWERS)

    def forward(self, word_T: Tensor, relation_T: Tensor, context: Context) -> Tensor:
        """Logits [T, answers]."""
        x_1TD = (self.word(word_T) + self.relation(relation_T))[None]
        answers: Tensor = self.head(self.norm(x_1TD + self.block(x_1TD, context))[0])
        return answers


def chances(skew: float) -> Tensor:
    """Of each word, [V]; falling with its id, so that low ids are the frequent ones."""
    chance_V = torch.arange(1, WORDS + 1).float() ** -skew
    return chance_V / chance_V.sum()


def made_by(recipe: str, options: Mapping[str, Any] | None = None, hidden: int = HIDDEN) -> Callable[[], nn.Module]:
    """A block by a recipe of kind "moe"."""

    def make(count: int, each: int) -> SwiGLU:
        return SwiGLU(count, WIDTH, each)

    return lambda: find(recipe)(options).block(Place("recall", 0, 1, WIDTH, hidden, make, WORDS, (), recipe))


def answered(
    make: Callable[[], nn.Module], *, skew: float = 0.0, rare: bool = False, more: float = 1.0, steps: int = STEPS
) -> Contender:
    """A contender whose statistic is the share of facts that it knows, of all words or of the rare ones.

    Args:
        make: its block.
        skew: of the frequencies.
        rare: only those words count.
        more: how many times as often as they should be rare words are drawn: a planted effect.
        steps: of Adam.
    """

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        answer_VN = torch.randint(0, ANSWERS, (WORDS, RELATIONS))
        chance_V = chances(skew)
        chance_V[_rare()] *= more
        torch.manual_seed(draw.luck + 1_000)
        model = Recall(make())
        _train(model, answer_VN, chance_V, draw.steps(steps))
        right_VN = _right(model, answer_VN)
        return float(right_VN[_rare() if rare else slice(None)].float().mean())

    return run


def _rare() -> slice:
    return slice(round((1 - RARE) * WORDS), None)


def _train(model: Recall, answer_VN: Tensor, chance_V: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for step in range(steps):
        word_T = torch.multinomial(chance_V, ROWS, replacement=True)
        relation_T = torch.randint(0, RELATIONS, (ROWS,))
        context = Context(1, ROWS, input_ids_BS=word_T[None])
        loss = F.cross_entropy(model(word_T, relation_T, context), answer_VN[word_T, relation_T])
        loss = loss + sum(context.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        advance(model, (step + 1) / steps)
    model.eval()


@torch.no_grad()
def _right(model: Recall, answer_VN: Tensor) -> Tensor:
    """Which facts the model knows, bool [V, N]."""
    word_T = torch.arange(WORDS).repeat_interleave(RELATIONS)
    relation_T = torch.arange(RELATIONS).repeat(WORDS)
    logits = model(word_T, relation_T, Context(1, len(word_T), input_ids_BS=word_T[None]))
    return logits.argmax(1).view(WORDS, RELATIONS) == answer_VN
