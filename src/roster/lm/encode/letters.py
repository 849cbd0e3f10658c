"""Words by their spelling, for terms instead of prompts: forms of a word are near each other; nothing is learned."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode.base import Encoder, normalised


class Letters(Encoder):
    """Words by the trigrams of their letters, hashed: nearness of spelling, for words and their forms.

    Args:
        width: of the vectors.
    """

    def __init__(self, width: int = 256):
        self.width = width

    def fit(self, prompts: Sequence[str]) -> Letters:
        """Nothing to learn."""
        return self

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """The rows [N, D]."""
        count_ND = np.zeros((len(prompts), self.width), dtype=np.float32)
        for n, word in enumerate(prompts):
            padded = f"^{word}$"
            for start in range(max(len(padded) - 2, 1)):
                count_ND[n, zlib.crc32(padded[start : start + 3].encode()) % self.width] += 1
        return normalised(count_ND)
