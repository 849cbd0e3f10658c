"""StableMoE's claim: routes that are learned, distilled into token ids and then frozen give a better model than routes
that go on changing. That no token changes its expert afterwards is a test, not a claim.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from evidence.grounds.recall import STEPS, WORDS, answered, made_by
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic

OPTIONS = {"num_experts": 8, "until": 0.2}


def _never() -> nn.Module:
    block: Any = made_by("stablemoe", OPTIONS)()
    block.router.score = block.router.score.inner
    return block  # type: ignore[no-any-return]


CHECKS = (
    make_check(
        slug="stablemoe",
        version=1,
        claim="Routes that are learned, distilled and then frozen give a better model than routes that go on changing.",
        ground=f"{WORDS} words times 4 relations, each with one of 32 answers at random; {STEPS} steps of 256 facts",
        budget="8 experts of 32 units, one serves; frozen after a fifth of the steps",
        contenders={
            "StableMoE": ("frozen after a fifth of the steps", answered(made_by("stablemoe", OPTIONS))),
            "never frozen": ("the same router, learned to the end", answered(_never)),
            "hash": ("frozen from the beginning, not learned", answered(made_by("hash-routing", {"num_experts": 8}))),
            "longer": ("control: never frozen, a tenth more steps", answered(_never, steps=STEPS * 11 // 10)),
        },
        pairs=Pairs("StableMoE", "never frozen", "never frozen", "longer", "never frozen"),
        statistic=Statistic("share of facts known", "higher", 0.01),
    ),
)
