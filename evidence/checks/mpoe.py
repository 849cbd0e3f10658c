"""MPOE's claim: a trained block, decomposed into experts with a shared core, is no worse after fine-tuning than
independent copies of it, at a fraction of their parameters.

A dense block is trained first; then it becomes eight experts, of either kind, and all are trained on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evidence.checks.blocks import Net, train
from evidence.checks.clusters import Clusters, net
from evidence.grounds.field import field, missed
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

BEFORE, AFTER, HIDDEN, EXPERTS = 400, 400, 128, 8
MATRICES = ("gate", "up", "down")


def _dense(draw: Draw, ground: Clusters) -> Net:
    made = net("dense-active", hidden=HIDDEN)
    train(made, ground.draw, draw.steps(BEFORE))
    return made


@torch.no_grad()
def _grown(dense: Net, way: str, bond: int, mask: float) -> Net:
    """The dense net with eight experts in the place of its block."""
    options: dict[str, Any] = {"num_experts": EXPERTS}
    if way != "copies":
        options |= {"bond": bond, "mask": mask}
    made = net("switch-transformer" if way == "copies" else "mpoe", options, hidden=HIDDEN)
    made.out.load_state_dict(dense.out.state_dict())
    old: Any = dense.blocks[0].experts
    new: Any = made.blocks[0].experts
    if way == "from scratch":
        return made
    for name in MATRICES:
        one: Tensor = next(p for n, p in old.named_parameters() if n.startswith(name))[0]
        if way == "copies":
            part: nn.Parameter = next(p for n, p in new.named_parameters() if n.startswith(name))
            part.copy_(one.expand_as(part) * (1 + 0.05 * torch.randn_like(part)))
        else:
            getattr(new, name).set(one)
    return made


def _error(way: str, mask: float = 0.5, after: int = AFTER) -> Contender:
    def run(draw: Draw) -> float:
        ground = field(draw, count=8)
        made = _grown(_dense(draw, ground), way, bond=0, mask=mask)
        train(made, ground.draw, draw.steps(after))
        return missed(draw, made, ground)

    return run


def _count(way: str) -> int:
    made: Any = net("switch-transformer" if way == "copies" else "mpoe", {"num_experts": EXPERTS}, hidden=HIDDEN)
    return sum(p.numel() for p in made.blocks[0].experts.parameters())


CHECKS = (
    make_check(
        slug="mpoe",
        version=1,
        claim="A trained block, decomposed into experts with a shared core, is no worse than independent copies of it.",
        ground="8 clusters of tokens, each with a random function; a dense block of 128 units is trained for 400 "
        "steps, then its experts for 400 more",
        budget=f"8 experts of 128 units, one serves: {_count('mpoe'):,} parameters with a shared core, "
        f"{_count('copies'):,} independent",
        contenders={
            "shared core": ("the block decomposed, half of the core's gradients masked", _error("decomposed")),
            "copies": ("independent copies of the block, weights jittered by 5 %", _error("copies")),
            "from scratch": ("the shared core as it is drawn, not from the block", _error("from scratch")),
            "no mask": ("the block decomposed, no mask", _error("decomposed", mask=0.0)),
            "less": ("control, a handicap: copies, trained for half as many steps", _error("copies", after=AFTER // 2)),
        },
        pairs=Pairs("shared core", "copies", "from scratch", "less", "copies"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02, "no worse"),
    ),
)
