"""SMEAR's own claim: merging experts softly, trained by exact gradients, beats discrete routing trained by estimated
gradients, and routing by metadata.

Toy: 8 domains whose inputs have their own mean; every two domains need the same update, which the metadata (the
domain's name) does not tell: 4 experts, of which metadata routing must give one to every two domains by name, in an
order that does not match. The discrete routers are top-1 with the gate's probability (straight through the choice, as
in Switch) and REINFORCE with a moving baseline.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.checks.toy import WIDTH, Batch, Layer, error, train
from roster.context import Context
from roster.route import Route
from roster.router import Router
from roster.score import Linear, PromptPooled, TaskTable
from roster.select import All, TopK

DOMAINS, EXPERTS, STEPS = 8, 4, 1500


class Sampled(nn.Module):
    """Top-1 by sampling, for REINFORCE; remembers the log-probability of what was drawn."""

    reads_bias = False

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """One expert per row, with weight one."""
        E = scores_TE.shape[1]
        scores_BE = scores_TE.view(context.batch, context.length, E)[:, 0]
        if not self.training:
            choice_B = scores_BE.argmax(1)
        else:
            chance = torch.distributions.Categorical(logits=scores_BE)
            choice_B = chance.sample()
            self.log_prob_B = chance.log_prob(choice_B)
        choice_T1 = choice_B.repeat_interleave(context.length)[:, None]
        return Route.slots(choice_T1, torch.ones_like(choice_T1, dtype=scores_TE.dtype), E)


def check(seed: int) -> dict[str, float]:
    """Relative test errors of one seed."""
    torch.manual_seed(seed)
    center_NI = torch.randn(DOMAINS, WIDTH) * 2
    partner_N = torch.randperm(DOMAINS) // 2
    update_EOI = torch.randn(EXPERTS, WIDTH, 2) @ torch.randn(EXPERTS, 2, WIDTH) / 4

    def draw() -> Batch:
        domain_B = torch.randint(0, DOMAINS, (64,))
        x_BSI = torch.randn(64, 4, WIDTH) + center_NI[domain_B, None]
        return x_BSI, torch.einsum("boi,bsi->bso", update_EOI[partner_N[domain_B]], x_BSI), domain_B

    def pooled(select: nn.Module) -> Router:
        norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        return Router(PromptPooled(Linear(WIDTH, EXPERTS), "toy", norm), select)

    by_name_NE = F.one_hot(torch.arange(DOMAINS) // 2, EXPERTS).float()
    layers = {
        "SMEAR": Layer(pooled(All()), EXPERTS, rank=2),
        "top-1, straight through": Layer(pooled(TopK(1, "all")), EXPERTS, rank=2),
        "metadata": Layer(Router(TaskTable(by_name_NE), All("none")), EXPERTS, rank=2),
        "REINFORCE": Layer(pooled(Sampled()), EXPERTS, rank=2),
    }
    for name, layer in layers.items():
        if name == "REINFORCE":
            _reinforce(layer, draw)
        else:
            train(layer, draw, STEPS)
    test = [draw() for _ in range(8)]
    return {name: float(np.mean([error(layer, batch) for batch in test])) for name, layer in layers.items()}


def shown(figures: list[dict[str, float]]) -> bool:
    """SMEAR's mean error is the lowest, and lowest of all at most seeds."""
    names = figures[0].keys()
    means = {name: np.mean([each[name] for each in figures]) for name in names}
    wins = sum(min(each, key=each.__getitem__) == "SMEAR" for each in figures)
    return bool(min(means, key=means.__getitem__) == "SMEAR" and wins > len(figures) / 2)


def _reinforce(layer: Layer, draw) -> None:
    optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=1e-2)
    baseline = None
    layer.train()
    for _ in range(STEPS):
        x_BSI, y_BSO, domain_B = draw()
        optimizer.zero_grad()
        loss_B = (layer(x_BSI, domain_B) - y_BSO).square().mean((1, 2))
        mean = float(loss_B.detach().mean())
        baseline = mean if baseline is None else 0.9 * baseline + 0.1 * mean
        reward = (loss_B.detach() - baseline) * layer.router.select.log_prob_B
        (loss_B.mean() + reward.mean()).backward()
        optimizer.step()
    layer.eval()
