"""Encoder: the common form of what turns prompts into vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.lm.part import Part


class Encoder(Part):
    """Turns N prompts into rows [N, D] of float32, each of length 1 (or 0, for a prompt without a known word)."""

    def fit(self, prompts: Sequence[str]) -> Encoder:
        """Learns what it needs from the training prompts; pretrained encoders learn nothing."""
        raise NotImplementedError

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """The rows [N, D]."""
        raise NotImplementedError


def normalised(x_ND: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1; rows of zeros stay as they are."""
    length_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    return (x_ND / np.where(length_N1 > 0, length_N1, 1)).astype(np.float32)
