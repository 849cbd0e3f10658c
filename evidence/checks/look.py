"""A look into trained mixtures: do routers prefer the expert whose answer has the larger norm?

Small language models, top-2 of 8 experts; over validation text the place by norm, among all experts, of the one that
the router likes best: 0 is the loudest, 0.5 what a router reaches that does not look at norms.
"""

from __future__ import annotations

import numpy as np

from evidence.checks.small_lm import build
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.analyze.experts import look_into
from roster.arena.moe.data import corpus
from roster.arena.moe.pretrain import Terms, train
from roster.router import Router

TERMS = Terms(steps=400, rows=8, length=64, layers=4)


def _rank(way: str) -> Contender:
    """Mean place by norm of the chosen, over the layers."""

    def run(draw: Draw) -> float:
        model = build("gshard-top2", draw.luck, terms=TERMS)
        if way != "untrained":
            if way == "by others":
                for module in model.modules():
                    if isinstance(module, Router):
                        module.score.requires_grad_(False)
            train(model, corpus(), Terms(**{**vars(TERMS), "steps": draw.steps(TERMS.steps)}), draw.luck)
        ids_BS, _ = corpus().validation_rows(TERMS.validation_rows, TERMS.length)
        layers = look_into(model.eval(), input_ids=ids_BS, use_cache=False)
        return float(np.mean([layer.loudness_rank for layer in layers]))

    return run


CHECKS = (
    make_check(
        slug="look-into-moes",
        version=1,
        claim="Trained routers prefer the expert whose answer has the larger norm.",
        ground="language models of four layers on the arena's text, 400 steps of 8 x 64 tokens; validation text",
        budget="top-2 of 8 experts for all",
        contenders={
            "trained": ("routers and experts trained together", _rank("trained")),
            "untrained": ("the same model before training", _rank("untrained")),
            "by others": (
                "routers as they were drawn, experts trained: without the router's training",
                _rank("by others"),
            ),
        },
        pairs=Pairs("trained", "untrained", "by others", "trained", "untrained"),
        statistic=Statistic("mean place by norm of the expert that the router likes best, 0 to 1", "lower", 0.05),
    ),
)
