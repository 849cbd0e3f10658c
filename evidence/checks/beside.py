"""Claims about adapters beside blocks, on the field of clusters: GraphMoE, PERFT.

Shape legend: B rows of one token each, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evidence.checks.blocks import Net, train
from evidence.checks.clusters import OUT, WIDTH, net
from evidence.grounds.field import STEPS, Lot, error_of, field, missed
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.router import Router
from roster.select import TopK

Function = Callable[[Tensor], Tensor]
FEWER = STEPS // 2


class Forgetting(nn.Module):
    """In the place of a memory: only what was said last is thought over."""

    def forward(self, message_TD: Tensor, h_TD: Tensor) -> Tensor:
        """The message, whatever the state."""
        return message_TD


def _forgets(contender: Net) -> None:
    block: Any = contender.blocks[0]
    block.cell = Forgetting()


def _graphmoe(rounds: int, rank: int, **more: Any) -> Contender:
    return error_of("graphmoe", {"rounds": rounds, "rank": rank, "alpha": 2.0 * rank}, **more)


def _perft(options: Mapping[str, Any], at_random: bool = False, whole: bool = False) -> Contender:
    """Error on new functions after adapters alone were trained, beside a mixture that had learned others.

    Args:
        options: of the recipe.
        at_random: adapters are drawn by lot.
        whole: the mixture goes on training, too.
    """

    def run(draw: Draw) -> float:
        ground = field(draw)
        contender = net("perft", {**options, "alpha": 2.0 * options["rank"]})
        block: Any = contender.blocks[0]
        mixture = [*block.router.parameters(), *block.experts.parameters(), *contender.out.parameters()]
        for each in contender.parameters():
            each.requires_grad_(False)
        for each in mixture:
            each.requires_grad_(True)
        train(contender, ground.draw, draw.steps(FEWER))
        if not whole:
            contender.requires_grad_(False)
        block.adapters.requires_grad_(True)
        if at_random:
            block.own = Router(Lot(options["adapters"]), TopK(options["active"], temperature=1e6))
        else:
            block.own.requires_grad_(True)
        torch.manual_seed(draw.ground + 250_000)
        ground.functions = [_changed(function) for function in ground.functions]
        torch.manual_seed(draw.luck + 2_000)
        train(contender, ground.draw, draw.steps(FEWER))
        return missed(draw, contender, ground)

    return run


def _changed(function: Function) -> Function:
    """A cluster's function, and a map of rank 2 besides."""
    change_DO = torch.randn(WIDTH, 2) @ torch.randn(2, OUT) * (2 * WIDTH) ** -0.5
    return lambda x_BD: function(x_BD) + x_BD @ change_DO


GROUND = "tokens in twelve clusters, each with its own function; a block of width 16, batches of 256 tokens"
WHAT = Statistic("relative squared error on fresh tokens", "lower", 0.02)
ROUTED = {"form": "routed", "adapters": 4, "active": 2, "rank": 8}

CHECKS = (
    make_check(
        slug="graphmoe",
        version=1,
        claim="Rounds of routing with memory between them beat other mixtures of LoRAs of as many parameters.",
        ground=f"{GROUND}; 600 steps; the dense block stays as it was drawn, adapters and the read-out learn",
        budget="equal parameters: 4 LoRAs of rank 8 and a cell of memory, or of rank 21; two serve a token",
        contenders={
            "GraphMoE": ("three rounds with a memory, 2 of 4 LoRAs of rank 8", _graphmoe(3, 8)),
            "one round": ("2 of 4 LoRAs of rank 21", _graphmoe(1, 21)),
            "no memory": ("three rounds, of which each reads what was said last", _graphmoe(3, 8, change=_forgets)),
            "narrow": ("control: one round, 2 of 4 LoRAs of rank 1", _graphmoe(1, 1)),
        },
        pairs=Pairs("GraphMoE", "one round", "no memory", "one round", "narrow"),
        statistic=WHAT,
    ),
    make_check(
        slug="perft",
        version=1,
        claim="Routed adapters beside frozen experts beat adapters that always serve, at as many trained parameters.",
        ground=(
            f"{GROUND}; a top-2 mixture of 4 experts learns it for 300 steps, then adapters changed functions for 300"
        ),
        budget="4 adapters of rank 8 and a router of two ranks' size, two serve a token; or one adapter of rank 34",
        contenders={
            "routed": ("2 of 4 adapters of rank 8", _perft(ROUTED)),
            "always": ("one adapter of rank 34 that always serves", _perft({"form": "shared", "rank": 34})),
            "by lot": ("2 of 4 adapters of rank 8, drawn by lot", _perft(ROUTED, at_random=True)),
            "whole": ("control: the mixture trains on beside it", _perft({"form": "shared", "rank": 34}, whole=True)),
        },
        pairs=Pairs("routed", "always", "by lot", "whole", "always"),
        statistic=WHAT,
    ),
)
