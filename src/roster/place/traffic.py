"""What recorded routes say about placing experts: how busy each is, and who follows whom.

Shape legend: N tokens, L layers, E experts, K chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.offload.traces import NOBODY, Routes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """Counts of some routes.

    Attributes:
        load_LE: tokens of each expert.
        pairs_LEE: of layer l and the next, [L - 1, E, E]: tokens that visit one expert and then the other. A token with
            K experts in each layer is K * K pairs of weight 1 / K each: what it sends on from one of them.
        together_LEE: tokens that visit two experts of one layer.
    """

    load_LE: Floats
    pairs_LEE: Floats
    together_LEE: Floats

    @property
    def layers(self) -> int:
        """L."""
        return len(self.load_LE)

    @property
    def experts(self) -> int:
        """E."""
        return int(self.load_LE.shape[1])


def traffic_of(routes: Routes, top: int | None = None) -> Traffic:
    """Counts routes.

    Args:
        routes: recorded, see `roster.offload.recording`.
        top: only the first so many experts of each token; ExFlow counts 1. None: all.

    Raises:
        RosterError: layers with different numbers of experts, or fewer than two layers.
    """
    sizes = set(routes.geometry.experts)
    if len(sizes) != 1 or len(routes.geometry.experts) < 2:
        raise RosterError(
            f"experts are placed over at least two layers of as many experts each, not {list(routes.geometry.experts)}"
        )
    E = sizes.pop()
    chosen_NLK = routes.chosen_NLK[:, :, :top].astype(np.int64)
    L, K = chosen_NLK.shape[1:]
    load_LE = np.zeros((L, E))
    pairs_LEE, together_LEE = np.zeros((L - 1, E, E)), np.zeros((L, E, E))
    for layer in range(L):
        here_NK = chosen_NLK[:, layer]
        load_LE[layer] = np.bincount(here_NK[here_NK != NOBODY], minlength=E)
        together_LEE[layer] = _joint(here_NK, here_NK, E)
        if layer + 1 < L:
            pairs_LEE[layer] = _joint(here_NK, chosen_NLK[:, layer + 1], E) / K
    return Traffic(load_LE, pairs_LEE, together_LEE)


def _joint(first_NK: NDArray[np.int64], second_NK: NDArray[np.int64], E: int) -> Floats:
    first, second = first_NK[:, :, None], second_NK[:, None, :]
    flat = (first * E + second)[(first != NOBODY) & (second != NOBODY)]
    return np.bincount(flat, minlength=E * E).reshape(E, E).astype(float)
