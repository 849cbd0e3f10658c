"""JEI-DNN: at equal mean cost, gates trained with the heads are more accurate and better calibrated than thresholds on
confidence.

Toy: four classes; three in five inputs are easy (a linear function of some features names the class), the rest are hard
(the parity of the signs of two pairs of other features does). Four layers, trained with the last head and frozen, as in
the source; then heads and gates are trained. The baseline trains all heads on everybody with equal weight and leaves
where the highest probability passes a threshold; its figures at the cost of each JEI-DNN are read off the curve over
thresholds by linear interpolation. This is the second try: in the first the layers were trained along, on less data.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.moe.early_exit import EarlyExit

FEATURES, CLASSES, WIDTH, LAYERS, STEPS, ROWS, TRAINING, TEST = 16, 4, 32, 4, 1500, 128, 20000, 6000
TRADES = (0.05, 0.2, 0.5)
THRESHOLDS = np.concatenate([np.linspace(0.25, 0.99, 38), 1 - np.geomspace(1e-2, 1e-6, 20)])


def check(seed: int) -> dict[str, float]:
    """Accuracy and calibration error of both at the same costs."""
    torch.manual_seed(seed)
    easy_FC = torch.randn(FEATURES, CLASSES)
    easy_FC[:4] = 0
    x_NF, label_N = _draw(TRAINING, easy_FC)
    test_NF, test_N = _draw(TEST, easy_FC)
    layers = _layers(seed, x_NF, label_N)
    thresholds = _curve(_train(_stack(seed, layers, 0.0), x_NF, label_N, joint=False), test_NF, test_N)
    figures = {}
    for trade in TRADES:
        model = _train(_stack(seed, layers, trade), x_NF, label_N, joint=True)
        logits_NC, exit_N = model.decide(test_NF)
        cost = float(model.cost_L[exit_N].mean())
        at = [float(np.interp(cost, thresholds[:, 0], thresholds[:, column])) for column in (1, 2)]
        accuracy, calibration = _quality(logits_NC, test_N)
        figures |= {
            f"trade {trade}: mean cost": cost,
            f"trade {trade}: accuracy, joint": accuracy,
            f"trade {trade}: accuracy, thresholds": at[0],
            f"trade {trade}: calibration error, joint": calibration,
            f"trade {trade}: calibration error, thresholds": at[1],
        }
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """In the mean over seeds, at every trade, joint training is more accurate and has the lower calibration error."""

    def mean(name: str) -> float:
        return float(np.mean([each[name] for each in figures]))

    return all(
        mean(f"trade {trade}: accuracy, joint") > mean(f"trade {trade}: accuracy, thresholds")
        and mean(f"trade {trade}: calibration error, joint") < mean(f"trade {trade}: calibration error, thresholds")
        for trade in TRADES
    )


def _draw(rows: int, easy_FC: Tensor) -> tuple[Tensor, Tensor]:
    x_NF = torch.randn(rows, FEATURES)
    parity = (x_NF[:, 0] * x_NF[:, 1] > 0).long() * 2 + (x_NF[:, 2] * x_NF[:, 3] > 0).long()
    is_easy_N = torch.rand(rows) < 0.6
    mark_N1 = torch.where(is_easy_N, 1.0, -1.0)[:, None]
    return torch.cat([x_NF, mark_N1], 1), torch.where(is_easy_N, (x_NF @ easy_FC).argmax(1), parity)


def _layers(seed: int, x_NF: Tensor, label_N: Tensor) -> list[nn.Module]:
    """The backbone: trained with a head after the last layer, then frozen."""
    torch.manual_seed(seed + 100)
    layers = [nn.Sequential(nn.Linear(WIDTH if i else FEATURES + 1, WIDTH), nn.ReLU()) for i in range(LAYERS)]
    net = nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(2 * STEPS):
        rows = torch.randint(0, len(x_NF), (ROWS,))
        optimizer.zero_grad()
        F.cross_entropy(net(x_NF[rows]), label_N[rows]).backward()
        optimizer.step()
    return [layer.requires_grad_(False) for layer in layers]


def _stack(seed: int, layers: list[nn.Module], trade: float) -> EarlyExit:
    torch.manual_seed(seed + 200)
    return EarlyExit(layers, [nn.Linear(WIDTH, CLASSES) for _ in layers], trade=trade)


def _train(model: EarlyExit, x_NF: Tensor, label_N: Tensor, *, joint: bool) -> EarlyExit:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(STEPS):
        rows = torch.randint(0, len(x_NF), (ROWS,))
        exits = model(x_NF[rows])
        if joint:
            loss = model.loss(exits, label_N[rows])
        else:
            loss = sum(F.cross_entropy(logits_NC, label_N[rows]) for logits_NC in exits.logits_LNC)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def _curve(model: EarlyExit, x_NF: Tensor, label_N: Tensor) -> np.ndarray:
    """Rows of (cost, accuracy, calibration error) over thresholds, costs rising."""
    logits_LNC = model(x_NF).logits_LNC
    sure_LN = logits_LNC.softmax(2).max(2).values
    sure_LN[-1] = torch.inf
    rows = []
    for threshold in THRESHOLDS:
        exit_N = (sure_LN >= threshold).int().argmax(0)
        chosen_NC = logits_LNC[exit_N, torch.arange(len(x_NF))]
        rows.append((float(model.cost_L[exit_N].mean()), *_quality(chosen_NC, label_N)))
    return np.array(sorted(rows))


def _quality(logits_NC: Tensor, label_N: Tensor) -> tuple[float, float]:
    """(accuracy, expected calibration error over 15 bins)."""
    sure_N, guess_N = (each.numpy() for each in logits_NC.softmax(1).max(1))
    right_N = guess_N == label_N.numpy()
    bin_N = np.minimum((sure_N * 15).astype(int), 14)
    gaps = [abs(right_N[bin_N == b].mean() - sure_N[bin_N == b].mean()) * (bin_N == b).mean() for b in set(bin_N)]
    return float(right_N.mean()), float(sum(gaps))
