"""Claims about experts that do not fit into memory: who is foretold, who stays. Recorded routes are replayed; nothing
is timed.

Shape legend: N tokens, L layers, K chosen per token, B sequences, F experts of all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from evidence.grounds.routes import GROUND, blind, mixed, routes
from evidence.protocol.check import Check, Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.offload import Routes, simulate
from roster.offload.expertflow import regroup, train_network
from roster.offload.loading import find_strategy

SLOTS, MORE, FEWER = 24, 28, 22
Change = Callable[[Routes, int], Routes]


def _same(found: Routes, _luck: int) -> Routes:
    return found


def hits(
    policy: str,
    options: Mapping[str, Any] | None = None,
    slots: int = SLOTS,
    learn: Change = _same,
    see: Change = _same,
) -> Contender:
    """Share of needed experts that are there.

    Args:
        policy, options: of the cache.
        slots: of all layers.
        learn, see: what becomes of the routes to learn from, and of those to be judged by.
    """

    def run(draw: Draw) -> float:
        learned, judged = routes(draw)
        strategy = find_strategy(policy, options)
        learned, judged = learn(learned, draw.luck), see(judged, draw.luck)
        return float(simulate(judged, strategy, slots, learned).total.hit_rate)

    return run


def _without_gate(found: Routes, _luck: int) -> Routes:
    return blind(found)


def _better_of(*contenders: Contender) -> Contender:
    return lambda draw: max(run(draw) for run in contenders)


def _named(guess: Callable[[Routes, Routes, int], NDArray[np.integer[Any]]]) -> Contender:
    """Share of a token's experts, from the second layer on, among as many that were named."""

    def run(draw: Draw) -> float:
        learned, judged = routes(draw)
        guess_NLK = guess(learned, judged, draw.luck)[:, 1:]
        found_NLK = (judged.chosen_NLK[:, 1:, :, None] == guess_NLK[:, :, None, :]).any(-1)
        return float(found_NLK.mean())

    return run


def _by_gate(_learned: Routes, judged: Routes, _luck: int) -> NDArray[np.integer[Any]]:
    return judged.ahead_NLA[:, :, : judged.geometry.k]


def _by_another(_learned: Routes, judged: Routes, luck: int) -> NDArray[np.integer[Any]]:
    """What the gate said of some other token."""
    order = np.random.default_rng(luck).permutation(len(judged.ids_N))
    return judged.ahead_NLA[order][:, :, : judged.geometry.k]


def _by_popularity(learned: Routes, judged: Routes, _luck: int) -> NDArray[np.integer[Any]]:
    load_LE = np.sum(list(learned.matrices()), axis=0)
    best_LK = np.argsort(-load_LE, axis=1, kind="stable")[:, : judged.geometry.k]
    return np.broadcast_to(best_LK, judged.chosen_NLK.shape)


def _partly_known(learned: Routes, judged: Routes, luck: int) -> NDArray[np.integer[Any]]:
    """The right ones for three tokens in ten, the most popular ones for the others."""
    known_N = np.random.default_rng(luck).random(len(judged.ids_N)) < 0.3
    return np.where(known_N[:, None, None], judged.chosen_NLK, _by_popularity(learned, judged, luck))


BATCHES = 6


def _visits(paths: Callable[[Routes, Routes, Draw], torch.Tensor | None]) -> Contender:
    """Experts that a batch of sequences visits, of 64, when sequences of like paths are batched together."""

    def run(draw: Draw) -> float:
        learned, judged = routes(draw)
        by = paths(learned, judged, draw)
        order = np.random.default_rng(draw.luck).permutation(judged.sequences)
        size = judged.sequences // BATCHES
        groups = [order[at * size : (at + 1) * size].tolist() for at in range(BATCHES)]
        visited_BF = _visited(judged)
        if by is not None:
            groups = regroup(by, BATCHES, seed=draw.luck)
        return float(np.mean([int(visited_BF[each].any(0).sum()) for each in groups]))

    return run


OFTEN = 3
"""Tokens of a sequence that must visit an expert for it to be on the sequence's path: with one, all are on all."""


def _visited(found: Routes) -> torch.Tensor:
    return torch.from_numpy(np.stack([each.ravel() for each in found.matrices()])) >= OFTEN


def _foretold(change: Change) -> Callable[[Routes, Routes, Draw], torch.Tensor]:
    def paths(learned: Routes, judged: Routes, draw: Draw) -> torch.Tensor:
        network = train_network(change(learned, draw.luck), passes=draw.steps(20), seed=draw.luck)
        ids_BS = torch.from_numpy(judged.ids_N.astype("int64")).view(judged.sequences, -1)
        with torch.no_grad():
            logits_BSLE = network(ids_BS)[0]
        best = logits_BSLE.topk(judged.geometry.k, dim=-1).indices
        named_BSLE = torch.zeros_like(logits_BSLE).scatter_(-1, best, 1.0)
        return (named_BSLE.sum(1).flatten(1) >= OFTEN).float()

    return paths


def _known(_learned: Routes, judged: Routes, _draw: Draw) -> torch.Tensor:
    return _visited(judged).float()


def _claim(
    name: tuple[str, str],
    claim: str,
    what: str,
    effect: float,
    contenders: dict[str, tuple[str, Contender]],
    pairs: Pairs,
    better: Literal["lower", "higher"] = "higher",
    asks: Literal["better", "no worse"] = "better",
) -> Check:
    return make_check(
        slug=name[0],
        part=name[1],
        version=1,
        claim=claim,
        ground=GROUND,
        budget=f"equal: {SLOTS} of 64 experts have a slot; what is read ahead counts as there when it is needed",
        contenders=contenders,
        pairs=pairs,
        statistic=Statistic(what, better, effect, asks),
    )


HITS = "share of needed experts that are in memory"
LRU: tuple[str, Contender] = ("least recently used goes", hits("lru"))
MORE_LRU: tuple[str, Contender] = (f"control: least recently used goes, {MORE} slots", hits("lru", slots=MORE))
POOL = {"pool": True}

CHECKS = (
    _claim(
        ("fate-offload", "named"),
        "The next layer's gate on this layer's input names far more of the next experts than their popularity does.",
        "share of a token's two experts among two that were named",
        0.1,
        {
            "gate": ("the next gate on this layer's input", _named(_by_gate)),
            "popularity": ("the two most used on other text", _named(_by_popularity)),
            "another token": ("what the gate says of another token", _named(_by_another)),
            "partly known": (
                "control: the right ones for 3 tokens in 10, else the two most used",
                _named(_partly_known),
            ),
        },
        Pairs("gate", "popularity", "another token", "partly known", "popularity"),
    ),
    _claim(
        ("fate-offload", "hits"),
        "A cache that reads ahead what the next gate names hits more than LRU with as many slots.",
        HITS,
        0.02,
        {
            "Fate": ("reads ahead what the next gate names", hits("fate-offload")),
            "LRU": LRU,
            "blind": ("the same cache, the gate is not asked", hits("fate-offload", see=_without_gate)),
            "more slots": MORE_LRU,
        },
        Pairs("Fate", "LRU", "blind", "more slots", "LRU"),
    ),
    _claim(
        ("moe-infinity", ""),
        "A cache that follows activation matrices of earlier sequences hits more than LRU and LFU.",
        HITS,
        0.02,
        {
            "MoE-Infinity": ("reads ahead by the most similar earlier matrices", hits("moe-infinity")),
            "LRU or LFU": ("the better of both, chosen on the test", _better_of(hits("lru"), hits("lfu"))),
            "mixed": ("earlier matrices of tokens mixed over sequences", hits("moe-infinity", learn=mixed)),
            "more slots": MORE_LRU,
            "LRU": LRU,
        },
        Pairs("MoE-Infinity", "LRU or LFU", "mixed", "more slots", "LRU"),
    ),
    _claim(
        ("expertflow", "hits"),
        "Experts foretold from token ids alone hit more than LRU with as many slots.",
        HITS,
        0.02,
        {
            "ExpertFlow": ("a network over token ids names experts of all layers", hits("expertflow")),
            "LRU": ("least recently used of all layers goes", hits("lru", POOL)),
            "mixed": ("a network taught with other tokens' routes", hits("expertflow", learn=mixed)),
            "more slots": (f"control: LRU, {MORE} slots", hits("lru", POOL, MORE)),
        },
        Pairs("ExpertFlow", "LRU", "mixed", "more slots", "LRU"),
    ),
    _claim(
        ("expertflow", "regroup"),
        "Batches regrouped by foretold experts visit fewer experts than batches as they come.",
        f"experts of 64 that at least {OFTEN} tokens of some sequence of a batch visit, 6 batches of 10 sequences",
        1.0,
        {
            "regrouped": ("by what a network over token ids foretells", _visits(_foretold(_same))),
            "as they come": ("at random", _visits(lambda *_: None)),
            "mixed": ("by what a network foretells that was taught other tokens' routes", _visits(_foretold(mixed))),
            "known": ("control: by the experts that are visited", _visits(_known)),
        },
        Pairs("regrouped", "as they come", "mixed", "known", "as they come"),
        "lower",
    ),
    _claim(
        ("moe-deployment", ""),
        "Keeping popular experts, the last come going first, hits at least as often as first in, first out.",
        HITS,
        0.01,
        {
            "buffering": ("half of the slots for the most popular, the last come goes", hits("moe-deployment")),
            "FIFO": ("the first come goes", hits("fifo")),
            "nobody stays": ("the last come goes, nobody is popular", hits("moe-deployment", {"static": 0.0})),
            "fewer slots": (f"control, a handicap: first in, first out with {FEWER} slots", hits("fifo", slots=FEWER)),
        },
        Pairs("buffering", "FIFO", "nobody stays", "fewer slots", "FIFO"),
        asks="no worse",
    ),
)
