"""VQMoE's claim: experts found by quantisation change less under noise than experts chosen by a softmax gate.

Noise of a tenth of its size is added to what the router reads of fresh tokens. What counts is what the choice without
noise tells of the choice with it, in nats: a router that sends all tokens to one expert, which no noise would change,
tells nothing. VQMoE without its mixture beside, so that its choices are the codes' alone.
"""

from __future__ import annotations

import numpy as np
import torch

from evidence.grounds.field import field, learned
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import Context

EXPERTS = 4
CODES = {"num_experts": EXPERTS, "continuous": False}


def _told(recipe: str, options: dict[str, object], noise: float = 0.1) -> Contender:
    """Mutual information of a token's expert without and with noise, in nats."""

    def run(draw: Draw) -> float:
        ground = field(draw)
        contender = learned(draw, ground, recipe, options)
        torch.manual_seed(draw.ground + 500_000)
        x_BD, _, _ = ground.draw(8192)
        size_B1 = x_BD.square().mean(1, keepdim=True).sqrt()
        router = contender.blocks[0].router
        with torch.no_grad():
            one_B, other_B = (
                router(each, Context(len(x_BD), 1)).dense().argmax(1).numpy()
                for each in (x_BD, x_BD + noise * size_B1 * torch.randn_like(x_BD))
            )
        table_EE = np.zeros((EXPERTS, EXPERTS))
        np.add.at(table_EE, (one_B, other_B), 1 / len(one_B))
        even_EE = table_EE.sum(1, keepdims=True) * table_EE.sum(0, keepdims=True)
        there = table_EE > 0
        return float((table_EE[there] * np.log(table_EE[there] / even_EE[there])).sum())

    return run


CHECKS = (
    make_check(
        slug="vqmoe",
        version=1,
        claim="Experts found by quantisation change less under noise than experts chosen by a softmax gate.",
        ground="12 clusters of tokens, each with a random function, 600 steps; 8,192 fresh tokens with noise of a "
        "tenth of their size",
        budget="4 experts of 16 units, one serves",
        contenders={
            "VQMoE": ("the nearest of 4 trained codes", _told("vqmoe", CODES)),
            "Switch": ("a softmax gate, balance 0.01", _told("switch-transformer", {"num_experts": EXPERTS})),
            "untrained codes": ("codes as they were drawn", _told("vqmoe", {**CODES, "quantization": 0.0})),
            "less noise": (
                "control: Switch under half the noise",
                _told("switch-transformer", {"num_experts": EXPERTS}, 0.05),
            ),
        },
        pairs=Pairs("VQMoE", "Switch", "untrained codes", "less noise", "Switch"),
        statistic=Statistic("nats that the choice without noise tells of the one with it", "higher", 0.02),
    ),
)
