"""MindSkip: tuning routers alone on little data skips half of the attention at a smaller loss than skipping at random
or in fixed layers.

A small dense language model of four layers is trained first. Its routers are then tuned on 60 more batches. At random:
every token skips with the chance that the tuned routers have in that layer. Fixed: the two of four layers without which
the training loss rises least; the share skipped is half.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from roster.arena.moe.data import corpus
from roster.arena.moe.pretrain import Terms, pretrain, train, validate
from roster.context import Context
from roster.moe.extract import as_plain
from roster.moe.replacing import replace, routed_blocks
from roster.moe.twin import rerouted
from roster.route import Route
from roster.router import Router

TERMS = Terms(steps=1500, rows=12, length=64, layers=4)
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


def check(seed: int) -> dict[str, float]:
    """Validation losses, and the share of attention that is kept."""
    base = as_plain(pretrain("dense-active", terms=TERMS, seed=seed).model)
    options = {"keep": 0.5, "penalty": 0.5}
    tuned = replace(copy.deepcopy(base), "router-tuning-mindskip", options=options)
    train(tuned, corpus(), TUNING, seed + 1000)
    kept = _kept(tuned)
    shares = dict(zip(routed_blocks(tuned), kept, strict=True))
    random = rerouted(tuned, lambda router: Open(shares[router.site], seed))
    fixed = min(itertools.combinations(range(TERMS.layers), 2), key=lambda off: _training_loss(_without(tuned, off)))
    everything = validate(_without(tuned, ()), corpus(), TERMS)["all"]
    losses = {"tuned": tuned, "random": random, "fixed layers": _without(tuned, fixed)}
    figures = {"loss of the base": everything}
    for name, model in losses.items():
        figures[f"{name}: rise of the loss"] = validate(model, corpus(), TERMS)["all"] - everything
    return (
        figures
        | {f"kept in layer {index}": share for index, share in enumerate(kept)}
        | {"kept, mean": float(np.mean(kept))}
    )


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed the loss rises less than at random and than with fixed layers, with at most 55 % kept."""
    return all(
        each["tuned: rise of the loss"] < min(each["random: rise of the loss"], each["fixed layers: rise of the loss"])
        and each["kept, mean"] <= 0.55
        for each in figures
    )


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
