"""Experts and examples as the base's hidden states: the features that `auto` reads, pooled to one vector each.

What: an expert is the mean over the examples on its card; what is asked suits the experts whose means point its way.
Equation: score_e = mean over queries of cos(q - c, mean_e - c), c the mean over all experts.
Shapes: F features; one pass of the plain base over the examples of the cards, which an index remembers.
Trains: nothing.
Siblings: `auto` chooses the block, whitens and calibrates, and can say "nobody"; here it is one block, and a ranking.
    `loss` and `shots` ask the experts themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roster.auto.features import Place, features_of
from roster.auto.turns import header_of
from roster.errors import RosterError
from roster.library.fingerprint import digest, fingerprint
from roster.prompts import Prompt, Rendering
from roster.routed.taps import blocks_of
from roster.shelf.card import Card
from roster.shelf.folders import adapter_folders, name_of
from roster.shelf.index import Index

POOLING = "mean"


def _nothing(count: int) -> None:
    """Says nothing of progress."""


class States:
    """A base that turns prompts into vectors.

    Args:
        model: the plain base.
        rendering: how prompts become tokens.
    """

    def __init__(self, model: Any, rendering: Rendering):
        self._model, self._rendering = model, rendering
        depth = len(blocks_of(model))
        self.place: Place = (max(1, round(2 * depth / 3)), POOLING)
        self._header = torch.tensor(header_of(rendering), dtype=torch.long)
        self.key = f"{digest(fingerprint(model))[:16]} {rendering.digest} {self.place[0]} {self.place[1]}"

    def __call__(self, prompts: Sequence[Prompt], tick: Callable[[int], None] = _nothing) -> NDArray[np.float32]:
        """One vector per prompt, [N, F]."""
        found = features_of(self._model, self._rendering, self._header, prompts, [self.place], tick)[:, 0].float()
        vectors: NDArray[np.float32] = found.numpy()
        return vectors


def expert_vectors(
    folder: str | Path, states: States, tick: Callable[[int], None] = _nothing, keep: bool = True
) -> dict[str, NDArray[np.float32]]:
    """One vector per expert of a folder that has examples, in the folder's order; the index remembers them.

    Args:
        folder: of adapters.
        states: the base.
        tick: called with the number of experts whose examples have just been read.
        keep: whether the index may be written into the folder.

    Raises:
        RosterError: no card has examples.
    """
    folder = Path(folder)
    index = Index(folder) if keep else Index(folder, 1 << 30)
    known = index.vectors(states.key)
    paths = {name_of(path, folder): path for path in adapter_folders(folder)}
    with_examples = [each.name for each in index.contents if each.examples and not each.problem]
    if not with_examples:
        raise RosterError(
            f"no card in {str(folder)!r} has examples: write some with `roster experts describe`, or ask by loss"
        )
    fresh = {}
    for name in with_examples:
        if name not in known:
            fresh[name] = states(Card.read(paths[name]).examples).mean(0)
        tick(1)
    if fresh and keep:
        index.remember(states.key, fresh)
    return {name: fresh[name] if name in fresh else known[name] for name in with_examples}


def by_states(
    folder: str | Path,
    states: States,
    prompts: Sequence[Prompt],
    tick: Callable[[int], None] = _nothing,
    keep: bool = True,
) -> list[tuple[str, float]]:
    """(expert, cosine) for the experts with examples, best first."""
    vectors = expert_vectors(folder, states, tick, keep)
    known_EF = np.stack(list(vectors.values()))
    center_F = known_EF.mean(0) if len(known_EF) > 1 else np.zeros_like(known_EF[0])
    scores_E = (_unit(states(prompts) - center_F) @ _unit(known_EF - center_F).T).mean(0)
    return sorted(zip(vectors, scores_E.tolist(), strict=True), key=lambda pair: -pair[1])


def _unit(vectors_NF: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths_N1 = np.linalg.norm(vectors_NF, axis=1, keepdims=True)
    unit_NF: NDArray[np.float32] = vectors_NF / np.maximum(lengths_N1, 1e-12)
    return unit_NF


def directions(vectors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """What tells some vectors apart, at length 1: what all have in common is taken off, [E, F]."""
    known_EF = np.stack(list(vectors.values()))
    return _unit(known_EF - known_EF.mean(0))
