"""scikit-learn's digits under the protocol: which examples are learned from is the ground's, all else is luck.

Shape legend: N examples, D 64 pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from evidence.protocol.check import Draw

LEARN = 1200


class Digits(NamedTuple):
    """Pixels in [0, 1] and labels, to learn from and held out."""

    x_ND: Tensor
    y_N: Tensor
    held_ND: Tensor
    held_N: Tensor


def digits(draw: Draw, learn: int = LEARN) -> Digits:
    """So many examples to learn from, the rest held out."""
    x_ND, y_N = _read()
    order_N = torch.tensor(np.random.default_rng(draw.ground).permutation(len(y_N)))
    seen, held = order_N[:learn], order_N[learn:]
    return Digits(x_ND[seen], y_N[seen], x_ND[held], y_N[held])


@lru_cache(maxsize=1)
def _read() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.tensor(found.data / 16).float(), torch.tensor(found.target)
