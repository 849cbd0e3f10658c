"""MoE-Infinity: a sequence's activation matrix is matched with those of earlier sequences, which say what comes next.

A matrix counts, for one sequence, the tokens that each expert of each layer was given. At layer l the matrix of the
running sequence is compared, row by row (cosine), with each stored one. Rows up to l are as good as equal by then, so
the later rows decide, which the earlier tokens filled; the first token of a sequence matches nothing. The best match
names the experts of later layers, nearer layers first. Room is made by the expert with the smallest product of nearness
(in layers still to come), share in the sequence, and uses.

Source: Xue et al., 2024, "MoE-Infinity: Activation-Aware Expert Offloading for Efficient MoE Serving",
arXiv:2401.14361.
Differences: rows up to l are left out of the comparison instead of being overwritten by equal ones, which is the same;
a batch has one matrix; at most `most` experts are named at a time.

Shape legend: M stored matrices, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from roster.offload.layout import Key
from roster.offload.predicting import Moment
from roster.offload.residency import Residency, pooled
from roster.offload.strategy import Geometry, Run, Strategy

if TYPE_CHECKING:
    from roster.offload.traces import Routes

Floats = NDArray[np.float32]


class ActivationMatrices:
    """The predictor, with its collection of matrices.

    Args:
        layers, experts: L and E (the most of any layer).
        capacity: M; a full collection replaces the matrix that was the best match least often.
        most: experts named at a time.
    """

    def __init__(self, layers: int, experts: int, capacity: int, most: int) -> None:
        self.running_LE: Floats = np.zeros((layers, experts), np.float32)
        self.layer = 0
        self._stored_MLE: Floats = np.zeros((0, layers, experts), np.float32)
        self._unit_MLE = self._stored_MLE  # rows of length 1, for cosines
        self._share_MLE = self._stored_MLE  # rows that sum to 1
        self._matched: list[int] = []
        self._capacity, self._most = capacity, most
        self._best_L: list[int] | None = None
        self._said: dict[tuple[int, int], list[Key]] = {}  # by (match, layer)

    def learn(self, counts_LE: Floats) -> None:
        """Keeps the matrix of a finished sequence."""
        self._said.clear()
        if len(self._stored_MLE) < self._capacity:
            self._stored_MLE = np.concatenate([self._stored_MLE, counts_LE[None]])
            self._matched.append(0)
        else:
            place = self._matched.index(min(self._matched))
            self._stored_MLE[place] = counts_LE
            self._matched[place] = 0
        lengths = np.linalg.norm(self._stored_MLE, axis=2, keepdims=True)
        self._unit_MLE = self._stored_MLE / np.maximum(lengths, 1e-9)
        self._share_MLE = self._stored_MLE / np.maximum(self._stored_MLE.sum(2, keepdims=True), 1e-9)

    def start(self, ids_BS: Sequence[Sequence[int]], new: bool) -> list[Key]:
        """A new sequence stores the one before; the tokens so far choose the match for each layer of this call."""
        if new:
            if self.running_LE.any():
                self.learn(self.running_LE.copy())
            self.running_LE[:] = 0
        self._best_L = None
        if len(self._stored_MLE) and self.running_LE.any():
            lengths_L = np.maximum(np.linalg.norm(self.running_LE, axis=1), 1e-9)
            cosine_ML = np.einsum("mle,le->ml", self._unit_MLE, self.running_LE / lengths_L[:, None])
            # Of layer l, the sum over the rows after it.
            later_ML = np.cumsum(cosine_ML[:, ::-1], axis=1)[:, ::-1] - cosine_ML
            self._best_L = later_ML.argmax(0).tolist()
        return []

    def after(self, moment: Moment) -> list[Key]:
        """What the best match did in the layers to come."""
        self.layer = moment.layer
        for expert, tokens in moment.votes.items():
            self.running_LE[moment.layer, expert] += tokens
        if self._best_L is None or moment.layer + 1 == len(self.running_LE):
            return []
        match = self._best_L[moment.layer]
        self._matched[match] += 1
        if (match, moment.layer) not in self._said:
            self._said[match, moment.layer] = self._of_match(match, moment.layer)
        return self._said[match, moment.layer]

    def _of_match(self, match: int, layer: int) -> list[Key]:
        """The experts of a stored matrix that come after a layer, by share and nearness."""
        L, E = self.running_LE.shape
        left = L - 1 - layer
        decay = 1.0 - np.arange(1, left + 1, dtype=np.float32) / (L + 1)
        priority = (self._share_MLE[match, layer + 1 :] * decay[:, None]).ravel()
        most = min(self._most, len(priority))
        best = np.argpartition(-priority, most - 1)[:most]
        best = best[np.argsort(-priority[best], kind="stable")]
        return [(layer + 1 + int(each) // E, int(each) % E) for each in best if priority[each] > 0]


class LeastActive:
    """The policy that goes with it."""

    def __init__(self, matrices: ActivationMatrices) -> None:
        self._matrices = matrices
        L, E = matrices.running_LE.shape
        self._held_LE = np.zeros((L, E), bool)
        # Of each layer that computes now (first axis), how near every layer's next turn is.
        ahead_LL = (np.arange(L)[None] - np.arange(L)[:, None] - 1) % L
        self._near_LL = (1.0 - ahead_LL / (L + 1)).astype(np.float32)
        self._uses_LE = np.zeros((L, E), np.float32)

    def hit(self, key: Key) -> None:
        """One use more."""
        self._uses_LE[key] += 1

    def admit(self, key: Key, ahead: bool = False) -> None:
        """Held from now on."""
        self._held_LE[key] = True
        self._uses_LE[key] += not ahead

    def victim(self, keep: Container[Key]) -> Key | None:
        """The smallest product of nearness, share in the sequence, and uses."""
        running_LE, layer = self._matrices.running_LE, self._matrices.layer
        E = running_LE.shape[1]
        # Layers of one sequence have as many tokens each, up to one: counts are shares but for a factor.
        score_LE = self._near_LL[layer][:, None] * (running_LE + 1e-3) * (self._uses_LE + 1e-3)
        score_LE[~self._held_LE] = np.inf
        score_LE = score_LE.ravel()
        while True:
            place = int(score_LE.argmin())
            if not np.isfinite(score_LE[place]):
                return None
            key = (place // E, place % E)
            if key not in keep:
                self._held_LE[key] = False
                return key
            score_LE[place] = np.inf

    def drop(self, key: Key) -> None:
        """No longer held."""
        self._held_LE[key] = False


def moe_infinity(capacity: int, most: int) -> Strategy:
    """See the module; with recorded routes the collection begins with their sequences."""

    def begin(geometry: Geometry, slots: int, routes: Routes | None) -> Run:
        matrices = ActivationMatrices(len(geometry.experts), max(geometry.experts), capacity, most)
        for counts_LE in () if routes is None else routes.matrices():
            matrices.learn(counts_LE.astype(np.float32))
        return Run(Residency(pooled(slots, geometry.experts), lambda _: LeastActive(matrices)), matrices)

    return begin
