"""Six routers in one small vision transformer on scikit-learn's digits, everything else equal.

The routers of the source, in its one form: an affinity of tokens and experts (a softmax over experts, or a transport
plan), from which tokens choose experts or experts choose tokens; the affinity is the combine weight. Each image is 16
patches of 2 x 2; two layers of attention and a mixture of 4 gated experts. A batch of images is one routing group, an
expert's capacity is its even share of it (factor 1). 600 of the 1,797 images are for training.

Source: Liu et al., 2024, "Routers in Vision Mixture of Experts: An Empirical Study", arXiv:2401.15969.
Differences: the soft router normalises tokens and slots, as its own source does, with a fixed scale (the second try: in
the first it did not); the size; sparse transport by ascent on the dual with a fixed number of steps.

Shape legend: B images, S patches per image, T = B * S, E experts, D width, K capacity of an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.balance import LoadBalancing
from roster.context import Context
from roster.experts import SwiGLU
from roster.moe.layer import MoE
from roster.route import Route
from roster.router import Router
from roster.score import Cosine, Linear
from roster.select import Capacity, Soft, TopK

PATCHES, WIDTH, EXPERTS, HIDDEN, LAYERS = 16, 32, 4, 64, 2
TRAINING, ROWS, EPOCHS, RATE = 600, 60, 40, 3e-3


def softmax_affinity(scores_TE: Tensor) -> Tensor:
    """Probabilities of the experts for each token."""
    return scores_TE.softmax(1)


def sinkhorn_affinity(scores_TE: Tensor, rounds: int = 10) -> Tensor:
    """Entropic transport plan: every token gives one unit, every expert takes an equal share."""
    log_TE, share = scores_TE, float(np.log(len(scores_TE) / scores_TE.shape[1]))
    for _ in range(rounds):
        log_TE = log_TE - log_TE.logsumexp(0) + share
        log_TE = log_TE - log_TE.logsumexp(1, keepdim=True)
    return log_TE.exp()


def sparse_affinity(scores_TE: Tensor, steps: int = 10, rate: float = 0.5) -> Tensor:
    """Transport plan of which an expert's column has at most its capacity of entries; squared instead of entropic.

    Ascent on the dual: the price of a token rises while its experts give it less than one unit.
    """
    capacity = _capacity(scores_TE)
    price_T = torch.zeros(len(scores_TE))
    for _ in range(steps):
        given_T = _columns((scores_TE.detach() + price_T[:, None]), capacity).sum(1)
        price_T = price_T + rate * (1 - given_T)
    return _columns(scores_TE + price_T[:, None], capacity)


class ExpertsChoose(nn.Module):
    """Every expert takes its capacity of the tokens with the highest affinity to it.

    Args:
        affinity: `scores -> affinities`, both [T, E].
    """

    reads_bias = False

    def __init__(self, affinity: Callable[[Tensor], Tensor]):
        super().__init__()
        self.affinity = affinity

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with K tokens per expert."""
        weight_TE = self.affinity(scores_TE.float())
        token_KE = weight_TE.topk(_capacity(weight_TE), dim=0).indices
        chosen_TE = torch.zeros_like(weight_TE, dtype=torch.bool).scatter(0, token_KE, True)
        return Route.from_gates(weight_TE, chosen_TE)


class TransportTop1(nn.Module):
    """Every token takes the expert to which the transport plan sends most of it, at that weight."""

    reads_bias = False

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with one expert per token, before any capacity."""
        weight_T1, expert_T1 = sinkhorn_affinity(scores_TE.float()).max(1, keepdim=True)
        return Route.slots(expert_T1, weight_T1, scores_TE.shape[1], full=True)


ROUTERS: dict[str, Callable[[], Router]] = {
    "softmax, token choice": lambda: _router(Capacity(TopK(1, "all"), 1.0), [LoadBalancing(0.01)]),
    "sinkhorn, token choice": lambda: _router(Capacity(TransportTop1(), 1.0)),
    "softmax, expert choice": lambda: _router(ExpertsChoose(softmax_affinity)),
    "sinkhorn, expert choice": lambda: _router(ExpertsChoose(sinkhorn_affinity)),
    "sparse transport, expert choice": lambda: _router(ExpertsChoose(sparse_affinity)),
    "soft": lambda: Router(Cosine(torch.randn(PATCHES, WIDTH), scale=4.0, trains=True), Soft(PATCHES // EXPERTS)),
}


class Layer(nn.Module):
    """Attention, then a mixture; both before a residual sum and behind a norm."""

    def __init__(self, router: Router):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.mixture = MoE(router, SwiGLU(EXPERTS, WIDTH, HIDDEN))

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        read_BSD = self.norms[0](x_BSD)
        x_BSD = x_BSD + self.attention(read_BSD, read_BSD, read_BSD, need_weights=False)[0]
        return x_BSD + self.mixture(self.norms[1](x_BSD), context)


class Vision(nn.Module):
    """Patches in, logits of the ten digits out.

    Args:
        make_router: called once per layer.
    """

    def __init__(self, make_router: Callable[[], Router]):
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.place_SD = nn.Parameter(torch.randn(PATCHES, WIDTH) * 0.02)
        self.layers = nn.ModuleList(Layer(make_router()) for _ in range(LAYERS))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))

    def forward(self, patch_BSP: Tensor, context: Context) -> Tensor:
        """Logits [B, 10] of patches [B, S, 4]."""
        x_BSD = self.embed(patch_BSP) + self.place_SD
        for layer in self.layers:
            x_BSD = layer(x_BSD, context)
        return self.head(x_BSD.mean(1))


def digits(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(patches [B, S, 4], digit of each image [B]) for training and for the test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    image_B88 = torch.tensor(bunch.images, dtype=torch.float32) / 8 - 1
    patch_BSP = image_B88.unfold(1, 2, 2).unfold(2, 2, 2).reshape(len(image_B88), PATCHES, 4)
    label_B = torch.tensor(bunch.target)
    order_B = torch.randperm(len(label_B), generator=torch.Generator().manual_seed(seed))
    train_B, test_B = order_B[:TRAINING], order_B[TRAINING:]
    return (patch_BSP[train_B], label_B[train_B]), (patch_BSP[test_B], label_B[test_B])


def _accuracy(name: str, images: int = TRAINING) -> Contender:
    """Share of test images that a vision transformer with this router gets right."""

    def run(draw: Draw) -> float:
        train, test = digits(draw.ground)
        train = (train[0][:images], train[1][:images])
        torch.manual_seed(draw.luck)
        model = Vision(ROUTERS[name])
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
        steps = draw.steps(EPOCHS * (TRAINING // ROWS))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        each = images // ROWS
        for step in range(steps):
            if step % each == 0:
                order_B = torch.randperm(images)
            rows = order_B[(step % each) * ROWS :][:ROWS]
            context = Context(ROWS, PATCHES)
            loss = F.cross_entropy(model(train[0][rows], context), train[1][rows]) + sum(context.losses.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return _right(model.eval(), *test)

    return run


@torch.no_grad()
def _right(model: Vision, patch_BSP: Tensor, label_B: Tensor) -> float:
    right = [
        (model(patches, Context(len(patches), PATCHES)).argmax(1) == labels)
        for patches, labels in zip(patch_BSP.split(ROWS), label_B.split(ROWS), strict=True)
    ]
    return float(torch.cat(right).float().mean())


def _router(select: nn.Module, balance: tuple | list = ()) -> Router:
    return Router(Linear(WIDTH, EXPERTS, std=WIDTH**-0.5), select, balance)


def _capacity(scores_TE: Tensor) -> int:
    return -(-scores_TE.shape[0] // scores_TE.shape[1])


def _columns(scores_TE: Tensor, capacity: int) -> Tensor:
    """The nearest plan in which an expert's column has at most K entries that are not below zero and sum to K."""
    top_KE, token_KE = scores_TE.topk(capacity, dim=0)
    count_K1 = torch.arange(1, capacity + 1)[:, None]
    excess_KE = (top_KE.cumsum(0) - capacity) / count_K1
    support_E = (top_KE > excess_KE).sum(0, keepdim=True)
    weight_KE = (top_KE - excess_KE.gather(0, support_E - 1)).clamp_min(0)
    return torch.zeros_like(scores_TE).scatter(0, token_KE, weight_KE)


TOKEN: tuple[str, Contender] = ("tokens choose, softmax, balance 0.01", _accuracy("softmax, token choice"))
EXPERT: tuple[str, Contender] = ("experts choose, softmax", _accuracy("softmax, expert choice"))
FEWER: tuple[str, Contender] = (
    "control: tokens choose, from 480 of the images",
    _accuracy("softmax, token choice", 480),
)
COMMON: dict[str, Any] = {
    "slug": "vision-moe-routers",
    "version": 1,
    "ground": "scikit-learn's digits, 600 images to learn from, 1,197 to judge on; a vision transformer of two layers",
    "budget": "4 experts of 64 units, every expert takes its even share of the tokens of 60 images",
}

CHECKS = (
    make_check(
        part="choice",
        claim="Routers by which experts choose tokens are more accurate than those by which tokens choose experts.",
        contenders={"experts choose": EXPERT, "tokens choose": TOKEN, "fewer": FEWER},
        pairs=Pairs("experts choose", "tokens choose", "tokens choose", "tokens choose", "fewer"),
        statistic=Statistic("accuracy on the test images", "higher", 0.005),
        **COMMON,
    ),
    make_check(
        part="soft",
        claim="The soft router is more accurate than sparse ones.",
        contenders={
            "soft": ("slots of mixed tokens", _accuracy("soft")),
            "experts choose": EXPERT,
            "tokens choose": TOKEN,
            "fewer": FEWER,
        },
        pairs=Pairs("soft", "experts choose", "experts choose", "tokens choose", "fewer"),
        statistic=Statistic("accuracy on the test images", "higher", 0.005),
        **COMMON,
    ),
)
