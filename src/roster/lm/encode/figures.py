"""What anybody sees of a prompt before reading it: length, numbers, code, formulas, kind of question.

Such figures tell hard prompts from easy ones of the same topic, which vectors of meaning do badly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode.base import Encoder
from roster.lm.encode.tfidf import TfIdf

_COUNTED = (
    r"\n",
    r"\d",
    r"[A-Z]",
    r"\?",
    r",",
    r"\.",
    r"[()\[\]{}]",
    r"[=+*/^<>-]",
    r"\$|\\[a-z]+",
    r"_{2,}",
    r"\b(?:not|except|false|never|incorrect)\b",
    r"\b(?:which|following|statements?|best|most likely)\b",
    r"\b(?:def|return|import|class|assert)\b",
    r"\b(?:how many|how much|calculate|compute|find|prove)\b",
)
"""What is counted, one figure each."""
_EACH = tuple(re.compile(pattern, re.IGNORECASE if r"\b" in pattern else 0) for pattern in _COUNTED)


class WithFigures(Encoder):
    """Another encoder's vector, behind a few figures of the prompt's form, each with mean 0 and a common deviation.

    Rows are no longer of length 1. Trees that see leading dimensions only see the figures first.

    Args:
        weight: deviation of a figure; the other encoder's vector has length 1.
        encoder: the other.
    """

    fitted: ClassVar[tuple[str, ...]] = ("middle_F", "scale_F")

    def __init__(self, weight: float = 0.1, encoder: Encoder | None = None):
        self.weight, self.encoder = weight, encoder or TfIdf()

    def fit(self, prompts: Sequence[str]) -> WithFigures:
        """Fits the other encoder, and takes the figures' means and deviations."""
        self.encoder.fit(prompts)
        figure_NF = np.array([figures(prompt) for prompt in prompts])
        self.middle_F, self.scale_F = figure_NF.mean(0), np.maximum(figure_NF.std(0), 1e-6)
        return self

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """The rows [N, F + D]."""
        figure_NF = (np.array([figures(prompt) for prompt in prompts]) - self.middle_F) / self.scale_F
        return np.hstack([self.weight * figure_NF.clip(-4, 4), self.encoder.encode(prompts)]).astype(np.float32)


def figures(prompt: str) -> tuple[float, ...]:
    """Length in characters and words, length of a word, and how often each sign occurs; logarithms of counts."""
    words = prompt.split()
    return (
        float(np.log1p(len(prompt))),
        float(np.log1p(len(words))),
        sum(map(len, words)) / max(len(words), 1),
        *(float(np.log1p(len(each.findall(prompt)))) for each in _EACH),
    )
