"""Claims about fronts: two digits lie over one another, one task a digit; PaMaL and PaLoRA.

Six hidden units do not do for both digits, so that a weighing matters. PaMaL was looked at on the seed of pilots (100)
as PaLoRA's baseline, at 16 units.

Shape legend: N pictures, T two tasks, R rays.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.grounds.digits import digits
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.merge.fronts import Call, Front, Rays, Task, composed, train
from roster.merge.palora import Adapted, annealed
from roster.merge.pamal import Members, dirichlet

HIDDEN, STEPS, RAYS, BATCH, RATE, RANK = 6, 600, 2, 64, 3e-3, 1
SIDE, SHIFT = 8, 3
JUDGED = torch.linspace(0, 1, 11)
"""Shares of the first task at which a front is judged."""


class Both(nn.Module):
    """Reads a picture of two digits, and says both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear((SIDE + SHIFT) ** 2, HIDDEN), nn.Linear(HIDDEN, 20)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Logits [N, T, 10]."""
        logits: Tensor = self.second(F.relu(self.first(x_ND)))
        return logits.view(-1, 2, 10)


def _over(x_ND: Tensor, y_N: Tensor, count: int, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures of two digits, one up on the left, one down on the right; the brighter pixel is seen."""
    at_NT = torch.randint(len(y_N), (count, 2), generator=dice)
    picture_NSS = torch.zeros(count, SIDE + SHIFT, SIDE + SHIFT)
    digit_NTSS = x_ND[at_NT].view(count, 2, SIDE, SIDE)
    picture_NSS[:, :SIDE, :SIDE] = digit_NTSS[:, 0]
    part = picture_NSS[:, SHIFT:, SHIFT:]
    part.copy_(torch.maximum(part, digit_NTSS[:, 1]))
    return picture_NSS.flatten(1), y_N[at_NT]


def _corners(step: int, _dice: torch.Generator) -> Tensor:
    """Every member is trained on its own task alone."""
    return torch.eye(2)


def _middle(step: int, _dice: torch.Generator) -> Tensor:
    return torch.full((RAYS, 2), 0.5)


def _front(make: Callable[[], Adapted | Members], rays: Callable[[int], Rays], rate: float = RATE) -> Contender:
    """Mean, over eleven rays, of the ray-weighted loss on held-out pictures."""

    def run(draw: Draw) -> float:
        seen = digits(draw)
        dice = torch.Generator().manual_seed(draw.ground + 500_000)
        x_ND, y_NT = _over(seen.x_ND, seen.y_N, 3000, dice)
        held_ND, held_NT = _over(seen.held_ND, seen.held_N, 1000, dice)
        torch.manual_seed(draw.luck)
        made, steps = make(), draw.steps(STEPS)
        order = torch.randint(len(x_ND), (steps, BATCH))

        def task(number: int) -> Task:
            def loss(call: Call, step: int) -> Tensor:
                at = order[step]
                return F.cross_entropy(call(x_ND[at])[:, number], y_NT[at, number])

            return loss

        groups = made.groups(rate) if isinstance(made, Adapted) else [{"params": made.parameters(), "lr": rate}]
        optimizer = torch.optim.Adam(groups)
        train(made, [task(0), task(1)], rays(steps), optimizer, steps, mean=True, seed=draw.luck)
        return _judged(made, held_ND, held_NT)

    return run


@torch.no_grad()
def _judged(made: Front, held_ND: Tensor, held_NT: Tensor) -> float:
    total = 0.0
    for share in JUDGED:
        ray_T = torch.stack([share, 1 - share])
        logits_NTC = composed(made, ray_T)(held_ND)
        losses_T = torch.stack([F.cross_entropy(logits_NTC[:, each], held_NT[:, each]) for each in range(2)])
        total += float((ray_T * losses_T).sum())
    return total / len(JUDGED)


def _members() -> Members:
    """Two members with one start, so that the line between them means something."""
    torch.manual_seed(int(torch.randint(2**31, ())))
    first, second = Both(), Both()
    second.load_state_dict(first.state_dict())
    return Members([first, second])


def _adapted(rank: int) -> Callable[[], Adapted]:
    return lambda: Adapted(Both(), ["first", "second"] if rank else [], 2, max(rank, 1))


def _annealed(steps: int) -> Rays:
    return annealed(2, steps, RAYS, 0.01, 5.0)


GROUND = "pictures of two of scikit-learn's digits over one another, 3000 to learn from, 1000 held out; "
GROUND += f"a network of {HIDDEN} hidden units, {STEPS} steps of {BATCH} pictures"
WHAT = Statistic("ray-weighted loss in nats, mean of eleven rays", "lower", 0.05)
PAMAL = _front(_members, lambda _steps: dirichlet(2, RAYS, 1.0))
ONE = _front(_adapted(0), lambda _steps: _middle)

CHECKS = (
    make_check(
        slug="pamal",
        version=1,
        claim="One run gives a front of solutions that beats the line between models trained apart.",
        ground=GROUND,
        budget="two members; two weighings a step, or a step of each member alone: equal passes",
        contenders={
            "PaMaL": ("members whose weighted means are trained, two weighings a step", PAMAL),
            "apart": (
                "members from the same start, each on its own task: the line between them",
                _front(_members, lambda _steps: _corners),
            ),
            "one": (
                "without members, and the control: one network for all weighings, trained on the mean of the losses",
                ONE,
            ),
        },
        pairs=Pairs("PaMaL", "apart", "one", "one", "apart"),
        statistic=WHAT,
    ),
    make_check(
        slug="palora",
        version=1,
        claim="A front of low-rank adapters comes near that of whole members, with a small part of their parameters.",
        ground=GROUND,
        budget="one network and two adapters of rank 1, 1.35 times a network, or two networks; equal passes",
        contenders={
            "PaLoRA": ("one network and an adapter of rank 1 a task", _front(_adapted(RANK), _annealed)),
            "PaMaL": ("two members, two weighings a step", PAMAL),
            "no adapters": ("one network for all weighings, trained alike", _front(_adapted(0), _annealed)),
            "short": (
                "control, a handicap: an adapter of rank 1 a task, at a twentieth of the rate",
                _front(_adapted(RANK), _annealed, RATE / 20),
            ),
        },
        pairs=Pairs("PaLoRA", "PaMaL", "no adapters", "short", "PaMaL"),
        statistic=Statistic(WHAT.what, WHAT.better, WHAT.effect, "no worse"),
    ),
)
