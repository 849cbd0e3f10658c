"""MoWE's claim: word experts remember more facts than a dense block or a learned top-1 mixture of equal cost.

That taking an expert away takes its own words' facts and no others is a property of routing by word, and no claim.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from evidence.grounds.recall import HIDDEN, STEPS, WIDTH, WORDS, answered
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.balance import LoadBalancing
from roster.experts import SwiGLU
from roster.moe.dense import Dense, Sum
from roster.moe.layer import MoE
from roster.router import Router
from roster.score import Linear, TokenTable
from roster.score.token_id import even_buckets
from roster.select import TopK

EXPERTS = 25


def _mixture(router: Callable[[], Router]) -> Callable[[], nn.Module]:
    """A dense part of three quarters of the units, and one expert of the others."""
    return lambda: Sum(Dense(SwiGLU(1, WIDTH, HIDDEN * 3 // 4)), MoE(router(), SwiGLU(EXPERTS, WIDTH, HIDDEN // 4)))


def _words() -> Router:
    return Router(TokenTable(even_buckets([1] * WORDS, EXPERTS, 0), EXPERTS), TopK(1))


def _learned() -> Router:
    return Router(Linear(WIDTH, EXPERTS), TopK(1, "all"), [LoadBalancing(0.01)])


def _dense() -> nn.Module:
    return Dense(SwiGLU(1, WIDTH, HIDDEN))


CHECKS = (
    make_check(
        slug="mowe",
        version=1,
        claim="Experts of words remember more facts than a learned top-1 mixture or a dense block of equal cost.",
        ground=f"{WORDS} words times 4 relations, each with one of 32 answers at random; {STEPS} steps of 256 facts",
        budget="32 hidden units a question for all; both mixtures have a dense part of 24 and 25 experts of 8",
        contenders={
            "MoWE": ("a word's expert is fixed", answered(_mixture(_words))),
            "top-1": ("the expert is learned from the hidden state, balance 0.01", answered(_mixture(_learned))),
            "dense": ("one block", answered(_dense)),
            "longer": ("control: top-1, a tenth more steps", answered(_mixture(_learned), steps=STEPS * 11 // 10)),
        },
        pairs=Pairs("MoWE", "top-1", "top-1", "longer", "top-1"),
        statistic=Statistic("share of facts known", "higher", 0.01),
    ),
)
