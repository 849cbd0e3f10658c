"""RMoE's claim: a router that carries its state across layers gives a language model a lower loss than a linear router.

Every contender but the plain linear one costs the same arithmetic per token: what the recurrence takes, the wide linear
one has in wider experts. The control is the toy in which the state must help: a second layer reads noise, and who
should serve there is known to the first layer's router alone.

Shape legend: T tokens, D width, E experts, H width of the state, L layers, M hidden units of the router.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.grounds.language import SHORT, loss_of
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import Context
from roster.experts import SwiGLU
from roster.moe.layer import MoE
from roster.router import Router
from roster.score import Linear, Recurrent
from roster.score.projection import project
from roster.select import TopK

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


def _planted(make: Callable[[int, nn.Module], nn.Module]) -> Contender:
    """Relative error of a second layer whose input does not tell who should serve."""
    width, experts, hidden, tokens = 16, 4, 16, 256

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        center_ND = torch.randn(experts, width) * 2
        wanted = torch.randn(2, experts, width, width) * width**-0.5
        torch.manual_seed(draw.luck + 1)

        def batch() -> tuple[Tensor, Tensor]:
            cluster_T = torch.randint(0, experts, (tokens,))
            x_LTD = torch.stack([center_ND[cluster_T] + torch.randn(tokens, width), torch.randn(tokens, width)])
            return x_LTD, torch.einsum("ltod,ltd->lto", wanted[:, cluster_T], x_LTD)

        cell = nn.GRUCell(hidden, hidden)
        layers = nn.ModuleList(
            MoE(Router(make(index, cell), TopK(1, "all")), SwiGLU(experts, width, 32)) for index in range(2)
        )
        optimizer = torch.optim.Adam(layers.parameters(), lr=5e-3)
        for _ in range(draw.steps(1500)):
            x_LTD, y_LTD = batch()
            optimizer.zero_grad()
            F.mse_loss(_through(layers, x_LTD), y_LTD).backward()
            optimizer.step()
        layers.eval()
        with torch.no_grad():
            test = [batch() for _ in range(8)]
            missed = sum(float(F.mse_loss(_through(layers, x)[1], y[1])) for x, y in test)
        return missed / sum(float(y[1].square().mean()) for _, y in test)

    return run


def _through(layers: nn.ModuleList, x_LTD: Tensor) -> Tensor:
    context = Context(1, x_LTD.shape[1])
    return torch.stack([layer(x_TD[None], context)[0] for layer, x_TD in zip(layers, x_LTD, strict=True)])


CHECKS = (
    make_check(
        slug="rmoe",
        version=1,
        claim="A router whose state rises through the layers gives a lower language-model loss than a linear router.",
        ground=f"4 layers of width 128, {TERMS.steps} steps of {TERMS.rows} x {TERMS.length} tokens of Python's "
        "own sources, vocabulary 2,048; 8 experts, 2 serve. Control: two layers on planted clusters",
        budget="RMoE and its variants: 8 experts of 64 units, 0.21 million multiplications per token and layer, head "
        "included. Linear, equal arithmetic: experts of 76 units, 1.1 times the parameters. Linear: the same experts "
        "as RMoE, 5 % less arithmetic. MLP: the same experts, a router of as many parameters. All: balance loss 0.01",
        contenders={
            "RMoE": ("recurrent router, H = 32", loss_of("rmoe")),
            "linear, equal arithmetic": (
                "linear router, wider experts",
                loss_of("gshard-top2", hidden=WIDER),
            ),
            "linear": ("linear router, experts as in RMoE", loss_of("gshard-top2")),
            "cut": ("RMoE trained and judged with its state cut between layers", loss_of("rmoe", change=_cut)),
            "detached": ("RMoE whose state carries no gradient to the layers below", loss_of("rmoe", change=_detached)),
            "MLP": ("a router of one hidden layer, 43 units, parameters as RMoE's", loss_of("rmoe", change=_mlp)),
            "toy, RMoE": ("control: two layers, recurrent", _planted(lambda i, cell: Recurrent(16, 4, cell, 16, i))),
            "toy, linear": ("control: two layers, linear", _planted(lambda _i, _cell: Linear(16, 4))),
        },
        pairs=Pairs("RMoE", "linear, equal arithmetic", "cut", "toy, RMoE", "toy, linear"),
        statistic=Statistic("held-out loss in nats per token; in the control, relative squared error", "lower", 0.01),
        seeds=10,
    ),
)
