"""RMoE's claim: a router that carries its state across layers gives a language model a lower loss than a linear router.

Every contender but the plain linear one costs the same arithmetic per token: what the recurrence takes, the wide linear
one has in wider experts. That the state rises is shown by tests/parts/test_learned_scores.py.

Shape legend: T tokens, D width, E experts, H width of the state, M hidden units of the router.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evidence.grounds.language import LESS, SHORT, TOP2, loss_of
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import Context
from roster.router import Router
from roster.score import Recurrent
from roster.score.projection import project

EXPERTS, STATE, MLP_HIDDEN, WIDER = 8, 32, 43, 152
TERMS = SHORT


class Detached(Recurrent):
    """The state rises, its gradient does not come back down."""

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        below = f"{self.key}/{self.index - 1}"
        if below in context.memory:
            context.memory[below] = context.memory[below].detach()
        return super().forward(x_TD, context)


class Mlp(nn.Module):
    """`scores = V relu(U x)`: as many parameters as the recurrent router, and no state."""

    def __init__(self, width: int, num_experts: int, hidden: int):
        super().__init__()
        self.inner_MD = nn.Parameter(torch.randn(hidden, width) * width**-0.5)
        self.weight_EM = nn.Parameter(torch.randn(num_experts, hidden) * hidden**-0.5)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        return project(project(x_TD, self.inner_MD).relu(), self.weight_EM)


def _cut(router: Router) -> None:
    """Every layer begins with a state of zeros: the same parameters, no recurrence."""
    score = _recurrent(router)
    score.key, score.index = f"cut {score.index}", 0


def _detached(router: Router) -> None:
    _recurrent(router).__class__ = Detached


def _mlp(router: Router) -> None:
    router.score = Mlp(_recurrent(router).reduce_HD.shape[1], EXPERTS, MLP_HIDDEN)


def _recurrent(router: Router) -> Recurrent:
    assert isinstance(router.score, Recurrent)
    return router.score


CHECKS = (
    make_check(
        slug="rmoe",
        version=1,
        claim="A router whose state rises through the layers gives a lower language-model loss than a linear router.",
        ground=f"4 layers of width 128, {TERMS.steps} steps of {TERMS.rows} x {TERMS.length} tokens of Python's "
        "own sources, vocabulary 2,048; 8 experts, 2 serve",
        budget="RMoE and its variants: 8 experts of 64 units, 0.21 million multiplications per token and layer, head "
        "included. Linear, equal arithmetic: experts of 76 units, 1.1 times the parameters. Linear: the same experts "
        "as RMoE, 5 % less arithmetic. MLP: the same experts, a router of as many parameters. All: balance loss 0.01",
        contenders={
            "RMoE": ("recurrent router, H = 32", loss_of("rmoe")),
            "linear, equal arithmetic": (
                "linear router, wider experts",
                loss_of("gshard-top2", hidden=WIDER),
            ),
            "linear": ("linear router, experts as in RMoE", TOP2[1]),
            "cut": ("RMoE trained and judged with its state cut between layers", loss_of("rmoe", change=_cut)),
            "detached": ("RMoE whose state carries no gradient to the layers below", loss_of("rmoe", change=_detached)),
            "MLP": ("a router of one hidden layer, 43 units, parameters as RMoE's", loss_of("rmoe", change=_mlp)),
            "less": ("control: linear, trained for a tenth fewer steps", LESS[1]),
        },
        pairs=Pairs("RMoE", "linear, equal arithmetic", "cut", "linear", "less"),
        statistic=Statistic("held-out loss in nats per token", "lower", 0.01),
        seeds=10,
    ),
)
