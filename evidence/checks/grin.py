"""GRIN's claims: its estimate of the router's gradient is nearer to the exact one than what a sampled gate passes, and
mixtures trained by it are better.

The exact gradient is found by asking every expert: tokens, experts and a readout at random, one expert per token, and
the gradient of `sum_e p_e loss(p_e E_e(x))` by the router's weights where the `p_e` inside the loss is held fixed. What
is wanted of a token is what one of the experts says at half of its weight, so that the loss is curved in p on the way
there; where it is straight, as a cross-entropy of large answers is, the gate's gradient is the exact one already.

Shape legend: T tokens, D width, E experts, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.grounds.language import LESS, TOP2, loss_of
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import Context
from roster.route import Route
from roster.select import SparseMixer, TopK

TOKENS, WIDTH, EXPERTS, OUT, DRAWS, SIZE = 4096, 16, 8, 10, 8, 1.0
EVERYONE = 1e6  # a jitter at which all experts take part in the draw
Loss = Callable[[Tensor], Tensor]
"""Loss of each token [T] for what an expert says [T, D]."""


class Drawn(nn.Module):
    """One expert by its probability, which is its weight; the gradient is that of the weight alone."""

    reads_bias = False

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """One expert per token."""
        prob_TE = scores_TE.softmax(1)
        choice_T1 = torch.multinomial(prob_TE.detach(), 1)
        return Route.slots(choice_T1, prob_TE.gather(1, choice_T1), scores_TE.shape[1], full=True)


class Scene:
    """Tokens, experts, a readout, and the loss of what an expert says."""

    def __init__(self) -> None:
        self.x_TD = torch.randn(TOKENS, WIDTH)
        self.router_ED = torch.randn(EXPERTS, WIDTH) * WIDTH**-0.5
        self.experts_EDD = torch.randn(EXPERTS, WIDTH, WIDTH) * WIDTH**-0.5 * SIZE
        self.readout_OD = torch.randn(OUT, WIDTH) * WIDTH**-0.5
        prob_TE = (self.x_TD @ self.router_ED.T).softmax(1)
        right_T = (self.x_TD @ torch.randn(WIDTH, EXPERTS)).argmax(1)
        own_TD = torch.einsum("tij,tj->ti", self.experts_EDD[right_T], self.x_TD) * prob_TE.amax(1, keepdim=True)
        self.wanted_TO = 0.5 * own_TD @ self.readout_OD.T

    def loss(self, said_TD: Tensor) -> Tensor:
        """Of each token, [T]."""
        return (said_TD @ self.readout_OD.T - self.wanted_TO).square().mean(1)

    def exact(self) -> Tensor:
        """Gradient of the expected loss by the router, [E, D]."""
        router_ED = self.router_ED.detach().requires_grad_(True)
        prob_TE = (self.x_TD @ router_ED.T).softmax(1)
        with torch.no_grad():
            said_ETD = torch.einsum("eij,tj->eti", self.experts_EDD, self.x_TD) * prob_TE.T[..., None]
            losses_TE = torch.stack([self.loss(said_TD) for said_TD in said_ETD], dim=1)
        (gradient_ED,) = torch.autograd.grad((prob_TE * losses_TE).sum(), router_ED)
        return gradient_ED

    def through(self, select: nn.Module) -> Tensor:
        """Gradient by the router, [E, D], that a selection passes."""
        router_ED = self.router_ED.detach().requires_grad_(True)
        gate_TE = select(self.x_TD @ router_ED.T, Context(1, TOKENS)).dense()
        said_TD = torch.einsum("te,eij,tj->ti", gate_TE, self.experts_EDD, self.x_TD)
        (gradient_ED,) = torch.autograd.grad(self.loss(said_TD).sum(), router_ED)
        return gradient_ED


def _nearness(select: Callable[[], nn.Module], draws: int = DRAWS, told: float = 0.0) -> Contender:
    """Angle of the mean of several draws' gradients and the exact one, of which some may be mixed in, in degrees."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        scene = Scene()
        wanted_ED = scene.exact()
        torch.manual_seed(draw.luck + 1_000)
        part = select().train()
        found_ED = F.normalize(torch.stack([scene.through(part) for _ in range(draws)]).mean(0).flatten(), dim=0)
        mixed_X = found_ED + told * F.normalize(wanted_ED.flatten(), dim=0)
        cosine = float(F.cosine_similarity(mixed_X, wanted_ED.flatten(), dim=0))
        return math.degrees(math.acos(min(1.0, cosine)))

    return run


CHECKS = (
    make_check(
        slug="grin",
        part="gradient",
        version=1,
        claim="The estimate of the router's gradient is nearer to the exact one than that through a drawn gate.",
        ground="4,096 random tokens, 8 random linear experts, of which one is right",
        budget="the mean of eight draws for all; an expert call per token and draw",
        contenders={
            "GRIN": ("SparseMixer's estimate", _nearness(lambda: SparseMixer(1, EVERYONE))),
            "drawn gate": ("the drawn expert's weight alone: without the estimate", _nearness(Drawn)),
            "best gate": ("the best expert's weight alone, as top-1", _nearness(lambda: TopK(1, "all"), draws=1)),
            "told": ("control: the drawn gate with a quarter of the exact gradient", _nearness(Drawn, told=0.25)),
        },
        pairs=Pairs("GRIN", "drawn gate", "drawn gate", "told", "drawn gate"),
        statistic=Statistic("angle to the exact gradient in degrees", "lower", 1.0),
    ),
    make_check(
        slug="grin",
        part="loss",
        version=1,
        claim="Mixtures trained by the estimate have a lower language-model loss than top-2.",
        ground="4 layers of width 128, 300 steps of 8 x 128 tokens of Python, vocabulary 2,048",
        budget="8 experts of 64 units, 2 serve; equal but for the router",
        contenders={
            "GRIN": ("drawn in training, SparseMixer's gradient", loss_of("grin")),
            "top-2": TOP2,
            "less": LESS,
        },
        pairs=Pairs("GRIN", "top-2", "top-2", "top-2", "less"),
        statistic=Statistic("held-out loss in nats per token", "lower", 0.01),
    ),
)
