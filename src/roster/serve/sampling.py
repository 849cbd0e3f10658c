"""From logits to the next token of each row: the likeliest, or drawn with the row's own temperature, nucleus and seed.

Shape legend: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper


@dataclass(frozen=True)
class Sampling:
    """How a row's tokens are chosen.

    Attributes:
        temperature: 0: always the likeliest.
        top_p: draw only among the likeliest that have this probability together.
        seed: of the draw; None: a different one every time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


class Draw:
    """The choices of one row."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._greedy = sampling.temperature == 0
        self._warpers = LogitsProcessorList()
        if not self._greedy:
            self._warpers.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_p < 1:
                self._warpers.append(TopPLogitsWarper(sampling.top_p))
            self._generator = torch.Generator(device)
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)

    def token(self, logits_V: Tensor, likeliest: int) -> int:
        """The next token."""
        if self._greedy:
            return likeliest
        scores_1V = self._warpers(torch.LongTensor(1, 0), logits_V[None].float())
        return int(torch.multinomial(scores_1V.softmax(1), 1, generator=self._generator))


def next_tokens(draws: list[Draw], logits_BV: Tensor) -> list[int]:
    """The next token of each row."""
    likeliest_B = logits_BV.float().argmax(1).tolist()  # in half precision processors take four times as long
    return [draw.token(logits_V, best) for draw, logits_V, best in zip(draws, logits_BV, likeliest_B, strict=True)]
