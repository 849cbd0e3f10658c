"""MindSkip: tuning routers alone on little data skips half of the attention at a smaller loss than skipping at random
or in fixed layers.

A small dense language model of four layers is trained first, once per ground. Its routers are then tuned on 60 more
batches. At random: every token skips with the chance that the tuned routers have in that layer. Fixed: the two of four
layers without which the training loss rises least, so that half is skipped, while the tuned routers may keep more.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace as replace_terms
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.arena.moe.data import corpus
from roster.arena.moe.pretrain import Terms, pretrain, train, validate
from roster.context import Context
from roster.moe.extract import as_plain
from roster.moe.replacing import replace, routed_blocks
from roster.moe.twin import rerouted
from roster.route import Route
from roster.router import Router

TERMS = Terms(steps=800, rows=12, length=64, layers=4)
TUNING = Terms(steps=60, rows=12, length=64, layers=4, learning_rate=2e-2)


class Open(nn.Module):
    """A gate that is open for a share of the tokens, drawn at random.

    Args:
        share: 0 closes it, 1 opens it for everybody.
        seed: of the draw.
    """

    reads_bias = False

    def __init__(self, share: float, seed: int = 0):
        super().__init__()
        self.share, self.generator = share, np.random.default_rng(seed)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route over one expert."""
        open_TE = torch.from_numpy(self.generator.random(scores_TE.shape) < self.share)
        return Route.from_gates(open_TE.to(scores_TE), open_TE)


@lru_cache(maxsize=1)
def _base(ground: int, steps: int) -> Any:
    """A trained dense model."""
    return as_plain(pretrain("dense-active", terms=replace_terms(TERMS, steps=steps), seed=ground).model)


@lru_cache(maxsize=2)
def _tuned(draw: Draw) -> Any:
    options = {"keep": 0.5, "penalty": 2.0}
    model = replace(
        copy.deepcopy(_base(draw.ground, draw.steps(TERMS.steps))), "router-tuning-mindskip", options=options
    )
    train(model, corpus(), replace_terms(TUNING, steps=draw.steps(TUNING.steps)), draw.luck + 1000)
    return model


def _rise(way: str) -> Contender:
    """Validation loss beyond that of the model whose attention nobody skips."""

    def run(draw: Draw) -> float:
        tuned = _tuned(draw)
        kept = dict(zip(routed_blocks(tuned), _kept(tuned), strict=True))
        if way == "tuned":
            model = tuned
        elif way == "random":
            model = rerouted(tuned, lambda router: Open(kept[router.site], draw.luck))
        elif way == "random, less":
            model = rerouted(tuned, lambda router: Open(1 - 0.75 * (1 - kept[router.site]), draw.luck))
        else:
            pairs = itertools.combinations(range(TERMS.layers), 2)
            model = _without(tuned, min(pairs, key=lambda off: _training_loss(_without(tuned, off))))
        everything = validate(_without(tuned, ()), corpus(), TERMS)["all"]
        return validate(model, corpus(), TERMS)["all"] - everything

    return run


def _without(model: Any, off: tuple[int, ...]) -> Any:
    """The model with attention in all layers but these."""
    layer = {name: index for index, name in enumerate(routed_blocks(model))}

    def gate(router: Router) -> Open:
        return Open(0.0 if layer[router.site] in off else 1.0)

    return rerouted(model, gate)


@torch.no_grad()
def _training_loss(model: Any) -> float:
    ids_BS, _ = corpus().batch(0, 48, TERMS.length, seed=99)
    return float(model(input_ids=ids_BS, labels=ids_BS, use_cache=False).loss)


@torch.no_grad()
def _kept(model: Any) -> list[float]:
    """Share of validation tokens that attend, by layer."""
    shares: list[float] = []
    hooks = [
        block.router.register_forward_hook(lambda _, args, route: shares.append(float(route.dense().mean())))
        for block in routed_blocks(model).values()
    ]
    ids_BS, _ = corpus().validation_rows(TERMS.validation_rows, TERMS.length)
    model(input_ids=ids_BS, use_cache=False)
    for hook in hooks:
        hook.remove()
    return shares


CHECKS = (
    make_check(
        slug="router-tuning-mindskip",
        version=1,
        claim="Tuning routers alone skips half of the attention at a smaller loss than in fixed layers or at random.",
        ground="a dense language model of four layers on the arena's text, 800 steps of 12 x 64; 60 more for routers",
        budget="half of the attention is to be kept by all; the penalty on the tuned routers' share is 2",
        contenders={
            "tuned": ("routers tuned on 60 batches", _rise("tuned")),
            "fixed": ("without the two layers that the training loss misses least", _rise("fixed")),
            "random": ("the tuned routers' shares, tokens at random: without the choice", _rise("random")),
            "random, less": ("control: at random, a quarter less of it skipped", _rise("random, less")),
        },
        pairs=Pairs("tuned", "fixed", "random", "random, less", "random"),
        statistic=Statistic("rise of the validation loss in nats per token", "lower", 0.02),
    ),
)
