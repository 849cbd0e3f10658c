"""Hyperband's claim: at an equal budget of training steps it finds better settings than random search to the end.

Settings are chosen on one half of the held-out digits, and what was chosen is judged on the other.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from evidence.grounds.digits import Digits, digits
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.recipes import find
from roster.search import Found, Range, Report, Search, Settings, search

MOST, BUDGET, ETA, BATCH = 27, 12 * 27, 3, 128
SPACE = {
    "rate": Range(1e-4, 1.0, log=True),
    "hidden": Range(2, 64, log=True, whole=True),
    "decay": Range(1e-5, 1.0, log=True),
    "momentum": (0.0, 0.5, 0.9),
}


def _trained(seen: Digits, settings: Settings, luck: int, told: Report, steps: int) -> nn.Module:
    """A network, one epoch a step."""
    torch.manual_seed(luck)
    net = nn.Sequential(nn.Linear(64, settings["hidden"]), nn.ReLU(), nn.Linear(settings["hidden"], 10))
    optimizer = torch.optim.SGD(
        net.parameters(), lr=settings["rate"], momentum=settings["momentum"], weight_decay=settings["decay"]
    )
    for step in range(steps):
        for at in torch.randperm(len(seen.y_N)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(seen.x_ND[at]), seen.y_N[at]).backward()
            optimizer.step()
        told(step + 1, _loss(net, seen, 0))
    return net


@torch.no_grad()
def _loss(net: nn.Module, seen: Digits, half: int) -> float:
    """On one half of what is held out; a network that went astray is as bad as one that says nothing."""
    loss = float(F.cross_entropy(net(seen.held_ND[half::2]), seen.held_N[half::2]))
    return min(loss, math.log(10)) if math.isfinite(loss) else math.log(10)


def _found(way: Search | None, blind: bool = False, share: float = 1.0) -> Contender:
    """Loss, on digits that chose nothing, of the settings that were found.

    Args:
        way: of searching; None is the recipe.
        blind: trials that go on are chosen by lot.
        share: of the budget.
    """

    def run(draw: Draw) -> float:
        seen = digits(draw)
        most, budget = (9, 27) if draw.short else (MOST, round(share * BUDGET))
        lot = torch.Generator().manual_seed(draw.luck + 1)

        def objective(settings: Settings, told: Report) -> float:
            def tell(step: int, loss: float) -> None:
                told(step, float(torch.rand((), generator=lot)) if blind else loss)

            return _loss(_trained(seen, settings, draw.luck, tell, most), seen, 0)

        with tempfile.TemporaryDirectory() as scratch:
            best = _within(budget, most, lambda trials: _search(way, objective, trials, most, Path(scratch), draw.luck))
        return _loss(_trained(seen, best, draw.luck, lambda _step, _loss: None, most), seen, 1)

    return run


def _search(
    way: Search | None, objective: Callable[[Settings, Report], float], trials: int, most: int, folder: Path, seed: int
) -> Found:
    ask = find("hyperband")({"eta": ETA}) if way is None else lambda *given, **named: search(way, *given, **named)
    found: Found = ask(objective, SPACE, trials=trials, most=most, folder=folder, seed=seed)
    return found


def _within(budget: int, most: int, tried: Callable[[int], Found]) -> Settings:
    """The best settings of as many trials as the budget of steps allows; a search goes on where it stopped."""
    best: Settings | None = None
    trials = 1
    while True:
        found = tried(trials)
        if best is not None and found.steps > budget:
            return best
        if any(each.whole for each in found.trials):
            best = found.best.settings
        trials += 1


RANDOM = Search("random", None)

CHECKS = (
    make_check(
        slug="hyperband",
        version=1,
        claim=(
            "At an equal budget of training steps it finds settings of lower loss than random ones trained to the end."
        ),
        ground=(
            "rate, width, decay and momentum of a network for scikit-learn's digits; 27 epochs at most, chosen by the "
            "loss on 299 held-out digits, judged on 298 others"
        ),
        budget="equal: 324 epochs, that is twelve trainings to the end",
        contenders={
            "Hyperband": ("brackets of successive halving, one of three goes on", _found(None)),
            "random": ("twelve settings at random, trained to the end", _found(RANDOM)),
            "by lot": ("the same brackets, but who goes on is drawn by lot", _found(None, blind=True)),
            "two": ("control: two settings at random, trained to the end", _found(RANDOM, share=1 / 6)),
        },
        pairs=Pairs("Hyperband", "random", "by lot", "random", "two"),
        statistic=Statistic("nats per digit of the settings found", "lower", 0.01),
    ),
)
