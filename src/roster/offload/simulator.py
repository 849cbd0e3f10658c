"""Replays recorded routes through a strategy, without weights: how often would it have hit, what would it have read?

The same `Residency` and predictors as in the engine, at the same moments. Time is left out: what is read ahead is there
when it is needed, so that the figures are those of a disk that keeps up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from roster.offload.belady import Belady
from roster.offload.layout import Key
from roster.offload.predicting import Moment, Votes, ranked
from roster.offload.residency import Residency, by_layer, pooled
from roster.offload.statistics import LayerStatistics, Statistics
from roster.offload.strategy import Run, Strategy
from roster.offload.traces import NOBODY, Routes

BOUND = "belady"


def simulate(
    routes: Routes, strategy: Strategy, slots: int, learned: Routes | None = None, nbytes: int = 1
) -> Statistics:
    """What a cache of so many slots would have done.

    Args:
        routes: to replay.
        strategy: who stays, and what is read ahead.
        slots: of all layers.
        learned: other routes, for strategies that learn.
        nbytes: of one expert.

    Raises:
        RosterError: fewer slots than layers, for a strategy that divides them; or routes are missing.
    """
    return replay(routes, strategy(routes.geometry, slots, learned), nbytes)


def bound(routes: Routes, slots: int, pool: bool = False, nbytes: int = 1) -> Statistics:
    """The best that any rule without reading ahead could have done on these routes (Belady), with slots divided so."""
    experts = routes.geometry.experts
    shares = (pooled if pool else by_layer)(slots, experts)
    future: list[list[tuple[int, Key]]] = [[] for _ in shares.slots]
    for time, (_, layers) in enumerate(_steps(routes)):
        for layer, votes in enumerate(layers):
            group = shares.group_of[layer]
            future[group] += [(time * len(layers) + layer, (layer, expert)) for expert in votes]
    groups = iter(future)
    return replay(routes, Run(Residency(shares, lambda _: Belady(next(groups)))), nbytes)


def replay(routes: Routes, run: Run, nbytes: int = 1) -> Statistics:
    """Plays routes through a running cache."""
    residency, predictor = run.residency, run.predictor
    layers = len(routes.geometry.experts)
    statistics = Statistics([LayerStatistics() for _ in range(layers)])
    guessed: set[Key] = set()
    nothing: frozenset[Key] = frozenset()

    def read_ahead(keys: list[Key], keep: set[Key] | frozenset[Key]) -> None:
        wanted = set(keep)
        for key in keys:
            if key not in residency:
                admitted, gone = residency.admit(key, wanted, ahead=True)
                if not admitted:
                    continue
                guessed.add(key)
                guessed.discard(gone)
                statistics.layers[key[0]].ahead += 1
            wanted.add(key)

    for key in sorted(residency.pinned):
        residency.admit(key, nothing, ahead=True)
    for step, needs in _steps(routes, getattr(predictor, "extra", 0)):
        statistics.tokens += step.tokens
        if predictor is not None:
            read_ahead(predictor.start(step.ids_BS, step.new), nothing)
        for layer, votes in enumerate(needs):
            counts = statistics.layers[layer]
            needed = {(layer, expert) for expert in votes}
            missing = []
            for expert in ranked(votes) if len(votes) > routes.geometry.k else votes:
                key = (layer, expert)
                if key in residency:
                    residency.hit(key)
                    counts.hits += 1
                    if key in guessed:
                        guessed.discard(key)
                        counts.useful += 1
                else:
                    missing.append(key)
            counts.misses += len(missing)
            for key in missing:
                admitted, gone = residency.admit(key, needed)
                counts.streamed += not admitted
                if gone is not None:
                    guessed.discard(gone)
            if predictor is not None:
                read_ahead(predictor.after(Moment(layer, votes, step.next_gate(layer))), needed)
    for counts in statistics.layers:
        counts.nbytes = (counts.misses + counts.ahead) * nbytes
    return statistics


class _Step:
    """One call of the model: a prompt, or one token."""

    __slots__ = ("_ahead", "ids_BS", "new", "tokens")

    def __init__(self, ids: list[int], new: bool, ahead: list[list[list[int]]]) -> None:
        self.ids_BS, self.new, self.tokens = [ids], new, len(ids)
        self._ahead = ahead  # [tokens, L, A]

    def next_gate(self, layer: int) -> Callable[[], Votes] | None:
        """What was recorded of the next layer's gate."""
        if layer + 1 == len(self._ahead[0]):
            return None
        return lambda: _votes([token[layer + 1] for token in self._ahead])


def _steps(routes: Routes, extra: int = 0) -> Iterator[tuple[_Step, list[Votes]]]:
    """(call, tokens by expert of each layer)"""
    chosen, ids = routes.chosen_NLK.tolist(), routes.ids_N.tolist()
    # As many as a token visits: what the engine asks the gate for, too.
    ahead = np.ascontiguousarray(routes.ahead_NLA[:, :, : routes.geometry.k + extra]).tolist()
    for sequence, prompt in enumerate(routes.prompts_S.tolist()):
        first, last = int(routes.starts_S[sequence]), int(routes.starts_S[sequence + 1])
        edges = [first, *range(first + prompt, last + 1)] if prompt else list(range(first, last + 1))
        for start, stop in pairwise(edges):
            step = _Step(ids[start:stop], start == first, ahead[start:stop])
            if stop == start + 1:
                yield step, [{expert: 1 for expert in layer if expert != NOBODY} for layer in chosen[start]]
            else:
                layers = range(len(routes.geometry.experts))
                yield step, [_votes([token[layer] for token in chosen[start:stop]]) for layer in layers]


def _votes(rows: list[list[int]]) -> Votes:
    votes: dict[int, int] = {}
    for rank in zip(*rows, strict=True):
        for expert in rank:
            if expert != NOBODY:
                votes[expert] = votes.get(expert, 0) + 1
    return votes
