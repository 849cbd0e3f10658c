"""JEI-DNN's claim: at equal mean cost, gates trained together with the heads are more accurate than thresholds on
confidence.

Four classes; three in five inputs are easy (a linear function of some features names the class), the rest are hard (the
parity of the signs of two pairs of other features does). Four layers, trained with the last head and frozen, as in the
source; then heads and gates are trained. Thresholds have heads that are trained on everybody with equal weight; their
accuracy at the cost of the joint training is read off the curve over thresholds by linear interpolation.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.moe.early_exit import EarlyExit

FEATURES, CLASSES, WIDTH, LAYERS, STEPS, ROWS, TRAINING, TEST, TRADE = 16, 4, 32, 4, 1500, 128, 20000, 6000, 0.5
THRESHOLDS = np.concatenate([np.linspace(0.25, 0.99, 38), 1 - np.geomspace(1e-2, 1e-6, 20)])
Rows = tuple[Tensor, Tensor]


@lru_cache(maxsize=2)
def _ground(draw: Draw) -> tuple[Rows, Rows, list[nn.Module]]:
    """(To learn from, to be judged on, trained layers)."""
    torch.manual_seed(draw.ground)
    easy_FC = torch.randn(FEATURES, CLASSES)
    easy_FC[:4] = 0
    test = _rows(TEST, easy_FC)
    torch.manual_seed(draw.luck + 1_000)
    training = _rows(TRAINING, easy_FC)
    layers = [nn.Sequential(nn.Linear(WIDTH if i else FEATURES + 1, WIDTH), nn.ReLU()) for i in range(LAYERS)]
    net = nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))
    _descend(net.parameters(), lambda x, y: F.cross_entropy(net(x), y), training, draw.steps(2 * STEPS))
    return training, test, [layer.requires_grad_(False) for layer in layers]


def _rows(rows: int, easy_FC: Tensor) -> Rows:
    x_NF = torch.randn(rows, FEATURES)
    parity = (x_NF[:, 0] * x_NF[:, 1] > 0).long() * 2 + (x_NF[:, 2] * x_NF[:, 3] > 0).long()
    is_easy_N = torch.rand(rows) < 0.6
    mark_N1 = torch.where(is_easy_N, 1.0, -1.0)[:, None]
    return torch.cat([x_NF, mark_N1], 1), torch.where(is_easy_N, (x_NF @ easy_FC).argmax(1), parity)


def _descend(parameters, loss, training: Rows, steps: int) -> None:
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=3e-3)
    for _ in range(steps):
        rows = torch.randint(0, len(training[0]), (ROWS,))
        optimizer.zero_grad()
        loss(training[0][rows], training[1][rows]).backward()
        optimizer.step()


@lru_cache(maxsize=4)
def _trained(draw: Draw, way: str) -> EarlyExit:
    """Heads and gates together, or heads on everybody, and then perhaps gates."""
    training, _, layers = _ground(draw)
    torch.manual_seed(draw.luck + 2_000)
    model = EarlyExit(layers, [nn.Linear(WIDTH, CLASSES) for _ in layers], trade=TRADE)
    steps = draw.steps(STEPS)
    if way == "joint":
        _descend(model.parameters(), lambda x, y: model.loss(model(x), y), training, steps)
        return model.eval()
    alone = lambda x, y: sum(F.cross_entropy(logits, y) for logits in model(x).logits_LNC)  # noqa: E731
    _descend(model.heads.parameters(), alone, training, steps)
    if way == "gates after":
        model.heads.requires_grad_(False)
        _descend(model.gates.parameters(), lambda x, y: model.loss(model(x), y), training, steps)
    return model.eval()


def _accuracy(way: str, dearer: float = 1.0) -> Contender:
    """At the mean cost of joint training, or `dearer` times that."""

    def run(draw: Draw) -> float:
        _, (x_NF, label_N), _ = _ground(draw)
        _, exit_N = _trained(draw, "joint").decide(x_NF)
        budget = float(_trained(draw, "joint").cost_L[exit_N].mean()) * dearer
        if way == "thresholds":
            curve = _curve(_trained(draw, "thresholds"), x_NF, label_N)
        else:
            curve = _by_gates(_trained(draw, way), x_NF, label_N)
        return float(np.interp(budget, curve[:, 0], curve[:, 1]))

    return run


@torch.no_grad()
def _by_gates(model: EarlyExit, x_NF: Tensor, label_N: Tensor) -> np.ndarray:
    """Rows of (cost, accuracy) over shifts of all gates, of which zero is one, costs rising."""
    exits = model(x_NF)
    rows = []
    for shift in (0.0, *np.linspace(-4, 4, 33).tolist()):
        exit_N = (exits.gate_LN + shift >= 0).int().argmax(0)
        rows.append(_point(model, exits.logits_LNC, exit_N, label_N))
    return np.array(sorted(rows))


@torch.no_grad()
def _curve(model: EarlyExit, x_NF: Tensor, label_N: Tensor) -> np.ndarray:
    """Rows of (cost, accuracy) over thresholds, costs rising."""
    logits_LNC = model(x_NF).logits_LNC
    sure_LN = logits_LNC.softmax(2).max(2).values
    sure_LN[-1] = torch.inf
    return np.array(
        sorted(_point(model, logits_LNC, (sure_LN >= each).int().argmax(0), label_N) for each in THRESHOLDS.tolist())
    )


def _point(model: EarlyExit, logits_LNC: Tensor, exit_N: Tensor, label_N: Tensor) -> tuple[float, float]:
    guess_N = logits_LNC[exit_N, torch.arange(len(label_N))].argmax(1)
    return float(model.cost_L[exit_N].mean()), float((guess_N == label_N).float().mean())


CHECKS = (
    make_check(
        slug="jei-dnn",
        version=1,
        claim="At equal mean cost, gates trained with the heads are more accurate than thresholds on confidence.",
        ground="four classes, three in five inputs easy; four frozen layers of width 32; 20,000 inputs to learn from, "
        "judged on 6,000 others",
        budget="the mean cost that joint training chooses at a price of 0.5; the same layers and steps",
        contenders={
            "joint": ("heads and gates in the same steps", _accuracy("joint")),
            "thresholds": ("heads on everybody, thresholds on the highest probability", _accuracy("thresholds")),
            "gates after": ("heads on everybody, then gates: not together", _accuracy("gates after")),
            "dearer": ("control: thresholds at a cost of an eighth more", _accuracy("thresholds", dearer=1.125)),
        },
        pairs=Pairs("joint", "thresholds", "gates after", "dearer", "thresholds"),
        statistic=Statistic("accuracy at that cost", "higher", 0.005),
    ),
)
