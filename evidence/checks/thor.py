"""THOR's claim: random experts that must agree overfit less than random experts that need not.

The text is short and learned again and again, since agreement is a regulariser: where nothing overfits, as in the first
version of this check, it can only hurt.
"""

from __future__ import annotations

from evidence.grounds.language import loss_of
from evidence.protocol.check import Contender, make_check
from evidence.protocol.declaration import Pairs, Statistic

SHARE = 0.004  # of the training text: about 13,000 tokens, each seen some 25 times
NONE = 1e-12  # counts for nothing, but not zero: zero would train with one draw


def _loss(consistency: float, share: float = SHARE) -> Contender:
    return loss_of("thor", {"consistency": consistency}, share=share)


CHECKS = (
    make_check(
        slug="thor",
        version=1,
        claim="Random experts that must agree overfit less than random experts that need not.",
        ground="4 layers of width 128, 300 steps of 8 x 128 tokens out of 13,000 of Python; other text held out",
        budget="4 experts of 128 units, one at random serves; two draws a step for all",
        contenders={
            "THOR": ("symmetric KL of two draws, weight 5", _loss(5.0)),
            "THOR, weaker": ("weight 1", _loss(1.0)),
            "without": ("two draws that need not agree", _loss(NONE)),
            "dense": ("one block", loss_of("dense-active", share=SHARE)),
            "more text": ("control: need not agree, a quarter more text", _loss(NONE, SHARE * 5 / 4)),
        },
        pairs=Pairs("THOR", "without", "without", "more text", "without"),
        statistic=Statistic("held-out loss in nats per token", "lower", 0.02),
    ),
)
