"""Multilinear MoE's claims: at equal parameters accuracy holds, and more experts specialise more.

scikit-learn's digits, split in halves. An expert is switched off and the loss of accuracy is counted by class: its
polysemanticity is the distance between those losses, divided by their largest, and the one-hot vector of the class that
loses most. An expert that matters for few answers scores low for that reason alone, so the measure is divided by its
random null: the same number of lost answers, spread over classes by lot.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.checks.blocks import Net
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import Context
from roster.route import Route

STEPS, WIDTH, CLASSES, LOTS = 600, 64, 10, 20
Split = tuple[Tensor, Tensor]


class Classifier(Net):
    """A net with a linear layer before its block."""

    def __init__(self, recipe: str, options: dict[str, int], hidden: int = WIDTH):
        super().__init__(recipe, options, width=WIDTH, hidden=hidden, out=CLASSES)
        self.first = nn.Linear(64, WIDTH)

    def forward(self, x_BD: Tensor, task_B: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Logits [B, 10]."""
        return super().forward(self.first(x_BD), task_B, context)


@lru_cache(maxsize=4)
def _trained(draw: Draw, recipe: str, experts: int, hidden: int = WIDTH) -> tuple[Classifier, Split]:
    digits = load_digits()
    order = np.random.default_rng(draw.ground).permutation(len(digits.target))
    x_BD, y_B = torch.tensor(digits.data[order] / 16).float(), torch.tensor(digits.target[order])
    half = len(y_B) // 2
    torch.manual_seed(draw.luck)
    made = Classifier(recipe, {"num_experts": experts} if experts else {}, hidden)
    optimizer = torch.optim.Adam(made.parameters(), lr=5e-3)
    made.train()
    for _ in range(draw.steps(STEPS)):
        row = torch.randint(0, half, (128,))
        loss = F.cross_entropy(made(x_BD[row]), y_B[row])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.eval(), (x_BD[half:], y_B[half:])


def _accuracy(recipe: str, experts: int = 0, hidden: int = WIDTH) -> Contender:
    def run(draw: Draw) -> float:
        made, (x_BD, y_B) = _trained(draw, recipe, experts, hidden)
        return float((_answers(made, x_BD) == y_B).float().mean())

    return run


@torch.no_grad()
def _answers(made: nn.Module, x_BD: Tensor) -> Tensor:
    answers: Tensor = made(x_BD).argmax(1)
    return answers


def _polysemanticity(experts: int) -> Contender:
    def run(draw: Draw) -> float:
        made, (x_BD, y_B) = _trained(draw, "mmoe-factorized", experts)
        right_B = _answers(made, x_BD) == y_B
        found, by_lot = [], []
        for expert in range(experts):
            lost_B = right_B & (_without(made, expert, x_BD) != y_B)
            if lost_B.any():
                found.append(_distance(lost_B, y_B))
                by_lot += [_distance(_elsewhere(right_B, int(lost_B.sum())), y_B) for _ in range(LOTS)]
        # Where nobody matters nobody is specialised: the measure is that of its null.
        return float(np.mean(found) / np.mean(by_lot)) if found and np.mean(by_lot) > 0 else 1.0

    return run


def _without(made: Classifier, expert: int, x_BD: Tensor) -> Tensor:
    def off(_module: nn.Module, _args: Any, route: Route) -> Route:
        gate_TE = route.dense().clone()
        gate_TE[:, expert] = 0.0
        return Route.from_gates(gate_TE)

    hook = made.blocks[0].router.register_forward_hook(off)
    try:
        return _answers(made, x_BD)
    finally:
        hook.remove()


def _distance(lost_B: Tensor, y_B: Tensor) -> float:
    loss_C = torch.stack([lost_B[y_B == digit].float().mean() for digit in range(CLASSES)])
    return float((loss_C / loss_C.max() - F.one_hot(loss_C.argmax(), CLASSES)).norm())


def _elsewhere(right_B: Tensor, count: int) -> Tensor:
    chosen_B = torch.zeros_like(right_B)
    where_B = right_B.nonzero()[:, 0]
    chosen_B[where_B[torch.randperm(len(where_B))[:count]]] = True
    return chosen_B


def _told(draw: Draw) -> float:
    """Every expert's loss lies in one class, but for a hundredth."""
    return 0.01 * float(np.random.default_rng(draw.luck).random())


COMMON: dict[str, Any] = {
    "slug": "mmoe-factorized",
    "version": 1,
    "ground": "scikit-learn's digits, half to learn from; a linear layer to 64 features, one block, 600 steps of 128",
    "budget": "every block, its gate included, has the parameters of a gated block of 64 units: the rank shrinks",
}

CHECKS = (
    make_check(
        part="accuracy",
        claim="At equal parameters a multilinear mixture is no less accurate than a dense block.",
        contenders={
            "64 experts": ("multilinear, full CP form", _accuracy("mmoe-factorized", 64)),
            "dense": ("a gated block", _accuracy("dense-active")),
            "narrow": ("a gated block of 2 units: the block itself hardly there", _accuracy("dense-active", 0, 2)),
            "random": ("control: a handicap, guessing", lambda draw: 0.1 + 0.01 * (draw.luck % 7)),
        },
        pairs=Pairs("64 experts", "dense", "narrow", "random", "dense"),
        statistic=Statistic("accuracy on the other half", "higher", 0.01, "no worse"),
        **COMMON,
    ),
    make_check(
        part="specialise",
        claim="With more experts, each is of fewer classes.",
        contenders={
            "64 experts": ("polysemanticity relative to its random null", _polysemanticity(64)),
            "4 experts": ("the same with four: without the number that the source credits", _polysemanticity(4)),
            "told": ("control: experts of one class each", _told),
        },
        pairs=Pairs("64 experts", "4 experts", "4 experts", "told", "4 experts"),
        statistic=Statistic("polysemanticity divided by that of as many lost answers by lot", "lower", 0.05),
        **COMMON,
    ),
)
