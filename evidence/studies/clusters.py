"""One expert against many on a mixture of classification problems.

Data of the source: a row is four patches in any order: a signal `+-a v_k` whose sign is the label, a centre `b c_k`
that gives the cluster k away, a distractor `+-g v_j` of another cluster whose sign says nothing, and noise. Who does
not know the cluster cannot tell signal from distractor. An expert is a two-layer convolution over patches: the sum of
its filters' responses, plain (linear) or cubed (nonlinear). The router is one linear map of the sum of the patches,
top-1, with uniform noise while it is trained; its weights have a larger rate than the experts'.

Source: Chen et al., 2022, "Towards Understanding Mixture of Experts in Deep Learning", arXiv:2208.02813.
Training is the source's: gradient descent on the whole training set, each expert's gradient divided by its own norm,
so that experts which are chosen little learn as fast as the others; plain gradients for the router.
Differences: every network is shown at the better of two rates; a quarter of the source's rows; sizes of signal, centre
and distractor as we remember them. This is the third try. The first two used Adam (one rate and half the steps, then
two rates), at which the single nonlinear expert did not train and every expert served several clusters.

Shape legend: N rows, P patches, D width, E experts, J filters, C clusters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.dispatch import grouped_matmul
from roster.route import Route

WIDTH, CLUSTERS, EXPERTS, FILTERS = 50, 4, 8, 16
TRAINING, TEST, STEPS, RATES, ROUTER_RATE = 4000, 4000, 500, (1e-2, 5e-3), 1.0
SMALL = 0.01  # deviation of the initial filters


class Problem:
    """A draw of signals and centres: four clusters, each with its own direction for the label."""

    def __init__(self, generator: torch.Generator):
        basis_DD = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
        self.signal_CD, self.center_CD = basis_DD[:CLUSTERS], basis_DD[CLUSTERS : 2 * CLUSTERS]
        self.generator = generator

    def draw(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """(patches [N, P, D], labels -1 or 1 [N], clusters [N])."""
        uniform = lambda low, high: low + (high - low) * torch.rand(rows, 1, generator=self.generator)  # noqa: E731
        cluster_N = torch.randint(0, CLUSTERS, (rows,), generator=self.generator)
        other_N = (cluster_N + torch.randint(1, CLUSTERS, (rows,), generator=self.generator)) % CLUSTERS
        label_N = self._signs(rows)
        patches_NPD = torch.stack(
            [
                label_N[:, None] * uniform(0.5, 2) * self.signal_CD[cluster_N],
                uniform(1, 2) * self.center_CD[cluster_N],
                self._signs(rows)[:, None] * uniform(0.5, 3) * self.signal_CD[other_N],
                torch.randn(rows, WIDTH, generator=self.generator) / WIDTH**0.5,
            ],
            dim=1,
        )
        order_NP = torch.rand(rows, 4, generator=self.generator).argsort(1)
        return patches_NPD.gather(1, order_NP[..., None].expand(-1, -1, WIDTH)), label_N, cluster_N

    def _signs(self, rows: int) -> Tensor:
        return torch.randint(0, 2, (rows,), generator=self.generator) * 2.0 - 1


class Convolutions(nn.Module):
    """Experts that answer with the sum of their filters' responses over the patches, and a top-1 router.

    Args:
        experts: E; a single one needs no router.
        filters: J of each.
        power: 1 for linear experts, 3 for cubic ones.
    """

    def __init__(self, experts: int, filters: int, power: int):
        super().__init__()
        self.power = power
        self.filter_EDJ = nn.Parameter(torch.randn(experts, WIDTH, filters) * SMALL)
        self.router_ED = nn.Parameter(torch.zeros(experts, WIDTH))

    def route(self, patches_NPD: Tensor) -> Tensor:
        """Scores [N, E], with noise in training."""
        scores_NE = patches_NPD.sum(1) @ self.router_ED.T
        return scores_NE + torch.rand_like(scores_NE) if self.training else scores_NE

    def forward(self, patches_NPD: Tensor) -> tuple[Tensor, Tensor]:
        """(answer, whose sign is the guess, [N]; expert of each row [N])."""
        scores_NE = self.route(patches_NPD)
        expert_N1 = scores_NE.argmax(1, keepdim=True)
        N, P = patches_NPD.shape[:2]
        route = Route.slots(expert_N1, scores_NE.softmax(1).gather(1, expert_N1), scores_NE.shape[1], full=True)
        patches_RD = route.dispatch(patches_NPD.flatten(1)).view(N * P, -1)
        response_RJ = grouped_matmul(patches_RD, self.filter_EDJ, route.counts_E * P).pow(self.power)
        return route.combine(response_RJ.view(N, -1).sum(1, keepdim=True))[:, 0], expert_N1[:, 0]


def learn(problem: Problem, model: Convolutions, rate: float, steps: int = STEPS) -> None:
    """Descent on the logistic loss over the training set, with steps of length `rate` for every expert."""
    patches_NPD, label_N, _ = problem.draw(TRAINING)
    model.train()
    for _ in range(steps):
        answer_N, _ = model(patches_NPD)
        loss = F.softplus(-label_N * answer_N).mean()
        filters_EDJ, router_ED = torch.autograd.grad(loss, [model.filter_EDJ, model.router_ED])
        with torch.no_grad():
            length_E11 = filters_EDJ.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
            model.filter_EDJ -= rate * filters_EDJ / length_E11
            model.router_ED -= ROUTER_RATE * router_ED
    model.eval()


@torch.no_grad()
def measure(problem: Problem, model: Convolutions) -> tuple[float, float]:
    """(test accuracy, entropy of the clusters given the expert in nats: 0 when an expert serves one cluster)."""
    patches_NPD, label_N, cluster_N = problem.draw(TEST)
    answer_N, expert_N = model(patches_NPD)
    table_EC = np.zeros((len(model.router_ED), CLUSTERS))
    np.add.at(table_EC, (expert_N.numpy(), cluster_N.numpy()), 1 / TEST)
    share_E = table_EC.sum(1)
    chance_EC = table_EC / np.maximum(share_E[:, None], 1e-12)
    entropy_E = -(chance_EC * np.log(np.maximum(chance_EC, 1e-12))).sum(1)
    return float((answer_N * label_N > 0).float().mean()), float(share_E @ entropy_E)


def _accuracy(experts: int, power: int) -> Contender:
    """Test accuracy at the better of two rates."""

    def run(draw: Draw) -> float:
        tried = []
        for rate in RATES:
            problem = Problem(torch.Generator().manual_seed(draw.ground))
            problem.generator.manual_seed(draw.luck + 1_000)
            torch.manual_seed(draw.luck)
            model = Convolutions(experts, EXPERTS * FILTERS // experts, power)
            learn(problem, model, rate, draw.steps(STEPS))
            tried.append(measure(problem, model)[0])
        return max(tried)

    return run


CHECKS = (
    make_check(
        slug="understanding-moe",
        version=1,
        claim="A mixture of nonlinear experts solves clustered classification where one of the same size fails.",
        ground="four clusters in 50 dimensions, each with its own direction for the label, 4,000 rows to learn from",
        budget="128 filters in all; eight experts of 16, of which a row visits one, or one network of 128 (eight times "
        "the arithmetic); 500 steps, the better of two rates",
        contenders={
            "mixture": ("eight experts of cubed responses", _accuracy(EXPERTS, 3)),
            "one": ("one network of cubed responses", _accuracy(1, 3)),
            "linear": ("eight linear experts: without the nonlinearity", _accuracy(EXPERTS, 1)),
            "one linear": ("one linear network", _accuracy(1, 1)),
            "two": ("control: two linear experts", _accuracy(2, 1)),
        },
        pairs=Pairs("mixture", "one", "linear", "two", "one linear"),
        statistic=Statistic("accuracy on fresh rows", "higher", 0.01),
    ),
)
