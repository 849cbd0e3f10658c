"""Multilinear MoE's own claim: at equal parameters accuracy holds, and experts specialise in classes as their number
rises.

scikit-learn's digits, split in halves: a linear layer to 64 features, a multilinear block, a linear read-out. The rank
shrinks so that the block, its gate included, has the parameters of a gated block of 64 hidden units, which is the dense
contender. A used expert is switched off (its gate set to zero), and the loss of accuracy is counted by class: the
class-level polysemanticity of an expert is the distance between those losses, divided by their largest, and the one-hot
vector of the class that loses most; 0 is an expert of one class. Reported is the mean over experts whose absence
changes any answer.

This is the second try: in the first there were 32 features and hidden units, and the gate came on top of the budget, of
which that of 64 experts made two thirds.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.checks.blocks import Net
from roster.context import Context
from roster.route import Route

SIZES, STEPS, WIDTH = (4, 16, 64), 600, 64


class Classifier(Net):
    """A net with a linear layer before its block."""

    def __init__(self, recipe: str, options: dict[str, int]):
        super().__init__(recipe, options, width=WIDTH, hidden=WIDTH, out=10)
        self.first = nn.Linear(64, WIDTH)

    def forward(self, x_BD: Tensor, task_B: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Logits [B, 10]."""
        return super().forward(self.first(x_BD), task_B, context)


def check(seed: int) -> dict[str, float]:
    """Accuracy of each contender, parameters of its block, and polysemanticity."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    x_BD, y_B = torch.tensor(digits.data[order] / 16).float(), torch.tensor(digits.target[order])
    half = len(y_B) // 2
    figures = {}
    for name, recipe, options in (
        ("dense", "dense-active", {}),
        *((f"{size} experts", "mmoe-factorized", {"num_experts": size}) for size in SIZES),
    ):
        torch.manual_seed(seed)
        made = Classifier(recipe, options)
        _train(made, x_BD[:half], y_B[:half])
        figures[f"{name}: accuracy"] = float((_answers(made, x_BD[half:]) == y_B[half:]).float().mean())
        figures[f"{name}: parameters"] = float(sum(p.numel() for p in made.blocks.parameters()))
        if name != "dense":
            figures[f"{name}: polysemanticity"] = _polysemanticity(made, x_BD[half:], y_B[half:])
    return figures


def _train(made: nn.Module, x_BD: Tensor, y_B: Tensor) -> None:
    optimizer = torch.optim.Adam(made.parameters(), lr=5e-3)
    made.train()
    for _ in range(STEPS):
        row = torch.randint(0, len(y_B), (128,))
        loss = F.cross_entropy(made(x_BD[row]), y_B[row])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made.eval()


@torch.no_grad()
def _answers(made: nn.Module, x_BD: Tensor) -> Tensor:
    return made(x_BD).argmax(1)


def _polysemanticity(made: Classifier, x_BD: Tensor, y_B: Tensor) -> float:
    def by_class() -> Tensor:
        right_B = (_answers(made, x_BD) == y_B).float()
        return torch.stack([right_B[y_B == digit].mean() for digit in range(10)])

    whole, distances = by_class(), []
    for expert in range(made.blocks[0].num_experts):

        def without(_module: nn.Module, _args: object, route: Route, expert: int = expert) -> Route:
            gate_TE = route.dense().clone()
            gate_TE[:, expert] = 0.0
            return Route.from_gates(gate_TE)

        hook = made.blocks[0].router.register_forward_hook(without)
        loss = (whole - by_class()).clamp_min(0.0)
        hook.remove()
        if loss.max() > 0:
            one_hot = F.one_hot(loss.argmax(), 10)
            distances.append(float((loss / loss.max() - one_hot).norm()))
    return float(np.mean(distances)) if distances else float("nan")


def shown(figures: list[dict[str, float]]) -> bool:
    """On average every mixture is at most one point of accuracy below the dense block, with at most 1.05 times its
    parameters, and polysemanticity falls from each number of experts to the next.
    """
    means = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    holds = all(means[f"{size} experts: accuracy"] >= means["dense: accuracy"] - 0.01 for size in SIZES)
    small = all(means[f"{size} experts: parameters"] <= 1.05 * means["dense: parameters"] for size in SIZES)
    spread = [means[f"{size} experts: polysemanticity"] for size in SIZES]
    return bool(holds and small and spread == sorted(spread, reverse=True))
