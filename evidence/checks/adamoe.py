"""AdaMoE's claims: null experts spend the arithmetic where it counts, and at equal arithmetic the loss is lower."""

from __future__ import annotations

from typing import Any

import torch

from evidence.checks.choosing import Direct, EasyAndHard
from evidence.checks.clusters import routes
from evidence.grounds.field import error_of, field, learned, over_all
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

REAL = 8


@torch.no_grad()
def _spent(ground: EasyAndHard, contender: Any) -> float:
    batch = ground.draw(4096)
    real_T = routes(contender, batch)[0].chosen()[:, :REAL].sum(1).float()
    filler_T = batch[2] < ground.hard_from
    return float(real_T[~filler_T].mean() - real_T[filler_T].mean())


def _more_for_others(recipe: str) -> Contender:
    def run(draw: Draw) -> float:
        ground = field(draw, EasyAndHard)
        assert isinstance(ground, EasyAndHard)
        return _spent(ground, learned(draw, ground, recipe, make=Direct))

    return run


def _error(recipe: str, **more: Any) -> Contender:
    return error_of(recipe, kind=EasyAndHard, make=Direct, **more)


COMMON: dict[str, Any] = {
    "slug": "adamoe",
    "version": 1,
    "ground": "12 clusters of tokens; nothing is wanted of one half (fillers), random functions of the others",
    "budget": "8 real experts of 8 units; AdaMoE: best 4 of 8 real and 8 null ones, steered to 2 real ones on average",
}

CHECKS = (
    make_check(
        part="loss",
        claim="With as many real experts per token on average, the loss is below that of a fixed number.",
        contenders={
            "AdaMoE": ("4 of 8 real and 8 null experts", _error("adamoe")),
            "top-2": ("2 of 8 for every token, weights sum to one as AdaMoE's", _error("gshard-top2")),
            "top-2, over all": ("2 of 8, probabilities as weights", _error("gshard-top2", change=over_all(2))),
            "wide": ("control: twice the arithmetic, top-2", _error("gshard-top2", hidden=32)),
        },
        pairs=Pairs("AdaMoE", "top-2", "top-2", "wide", "top-2"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
        **COMMON,
    ),
    make_check(
        part="fillers",
        claim="Tokens of which nothing is wanted get fewer real experts.",
        contenders={
            "AdaMoE": ("4 of 8 real and 8 null experts", _more_for_others("adamoe")),
            "top-2": ("2 of 8 for every token", _more_for_others("gshard-top2")),
            "told": ("control: half an expert more for others", lambda draw: 0.5 + 0.01 * (draw.luck % 7)),
        },
        pairs=Pairs("AdaMoE", "top-2", "top-2", "told", "top-2"),
        statistic=Statistic("real experts per other token, less those per filler", "higher", 0.1),
        **COMMON,
    ),
)
