"""SMEAR's claim: experts merged softly, trained by exact gradients, beat discrete routing by estimated gradients.

Eight domains whose inputs have their own mean; every two need the same update of a frozen layer, and four experts are
to be had. The discrete routers have a balance loss too: without one they were beaten by collapsing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.checks.toy import WIDTH, Batch, Layer, error, train
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.balance import LoadBalancing
from roster.context import Context
from roster.route import Route
from roster.router import Router
from roster.score import Linear, PromptPooled, TaskTable
from roster.select import All, ExpertDropout, TopK

DOMAINS, EXPERTS, STEPS, BALANCE = 8, 4, 1500, 0.1


class Sampled(nn.Module):
    """Top-1 by sampling, for REINFORCE; remembers the log-probability of what was drawn."""

    reads_bias = False

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """One expert per row, with weight one."""
        E = scores_TE.shape[1]
        scores_BE = scores_TE.view(context.batch, context.length, E)[:, 0]
        choice_B = scores_BE.argmax(1)
        if self.training:
            chance = torch.distributions.Categorical(logits=scores_BE)
            choice_B = chance.sample()
            self.log_prob_B = chance.log_prob(choice_B)
        choice_T1 = choice_B.repeat_interleave(context.length)[:, None]
        return Route.slots(choice_T1, torch.ones_like(choice_T1, dtype=scores_TE.dtype), E)


class Ground:
    """Domains, and who is whose partner."""

    def __init__(self) -> None:
        self.center_NI = torch.randn(DOMAINS, WIDTH) * 2
        self.partner_N = torch.randperm(DOMAINS) // 2
        self.update_EOI = torch.randn(EXPERTS, WIDTH, 2) @ torch.randn(EXPERTS, 2, WIDTH) / 4

    def draw(self) -> Batch:
        """64 rows of 4 tokens."""
        domain_B = torch.randint(0, DOMAINS, (64,))
        x_BSI = torch.randn(64, 4, WIDTH) + self.center_NI[domain_B, None]
        return x_BSI, torch.einsum("boi,bsi->bso", self.update_EOI[self.partner_N[domain_B]], x_BSI), domain_B


def _pooled(select: Callable[[], nn.Module], balance: float, _ground: Ground) -> Router:
    norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
    parts = [LoadBalancing(balance)] if balance else []
    return Router(PromptPooled(Linear(WIDTH, EXPERTS), "toy", norm), select(), parts)


def _by_name(_ground: Ground) -> Router:
    return Router(TaskTable(F.one_hot(torch.arange(DOMAINS) // 2, EXPERTS).float()), All("none"))


def _told(ground: Ground) -> Router:
    return Router(TaskTable(F.one_hot(ground.partner_N, EXPERTS).float()), All("none"))


def _uniform(_ground: Ground) -> Router:
    return Router(TaskTable(torch.full((DOMAINS, EXPERTS), 1 / EXPERTS)), All("none"))


def _error(make: Callable[[Ground], Router], learn: Callable[..., None] = train) -> Contender:
    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        ground = Ground()
        torch.manual_seed(draw.luck + 1_000)
        layer = Layer(make(ground), EXPERTS, rank=2)
        learn(layer, ground.draw, draw.steps(STEPS))
        torch.manual_seed(draw.ground + 500_000)
        return float(np.mean([error(layer, ground.draw()) for _ in range(8)]))

    return run


def _learn(layer: Layer, draw: Callable[[], Batch], steps: int, reinforce: bool = False) -> None:
    """As `toy.train`, with the balance loss, and REINFORCE's reward where the choice is sampled."""
    optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=1e-2)
    baseline = None
    layer.train()
    for _ in range(steps):
        x_BSI, y_BSO, _ = draw()
        context = Context(len(x_BSI), x_BSI.shape[1])
        x_TI = x_BSI.reshape(-1, WIDTH)
        route = layer.router(x_TI, context)
        y_TO = layer.experts(x_TI, torch.zeros(len(x_TI), WIDTH), route)
        loss_B = (y_TO.view_as(y_BSO) - y_BSO).square().mean((1, 2))
        loss = loss_B.mean() + sum(context.losses.values())
        if reinforce:
            mean = float(loss_B.detach().mean())
            baseline = mean if baseline is None else 0.9 * baseline + 0.1 * mean
            loss = loss + ((loss_B.detach() - baseline) * layer.router.select.log_prob_B).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    layer.eval()


SMEAR = partial(_pooled, lambda: ExpertDropout(All(), 0.1), 0.0)
TOP1 = partial(_pooled, lambda: TopK(1, "all"), BALANCE)

CHECKS = (
    make_check(
        slug="smear",
        version=1,
        claim="Soft merging trained by exact gradients beats top-1 routing trained by estimated ones, and metadata.",
        ground="8 domains of inputs, 4 updates of rank 2 of a frozen layer of width 16, each needed by two domains; "
        "1,500 steps of 64 rows of 4 tokens",
        budget="4 experts of rank 2; merged or chosen once per row, so the same arithmetic but for the merging",
        contenders={
            "SMEAR": ("experts merged by the router's probabilities, dropout of experts 0.1", _error(SMEAR, _learn)),
            "top-1": ("the best expert, weighted by its probability, balance 0.1", _error(TOP1, _learn)),
            "REINFORCE": (
                "sampled, a moving baseline, balance 0.1",
                _error(partial(_pooled, Sampled, BALANCE), partial(_learn, reinforce=True)),
            ),
            "metadata": ("experts by the domain's name, in an order that does not match", _error(_by_name)),
            "told": ("control: experts by what the domain needs", _error(_told)),
            "uniform": ("control: all experts alike", _error(_uniform)),
        },
        pairs=Pairs("SMEAR", "top-1", "top-1", "told", "uniform"),
        statistic=Statistic("relative squared error on fresh rows", "lower", 0.02),
    ),
)
