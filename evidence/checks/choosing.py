"""What the checks of selections share: a field of easy and hard clusters, trained contenders, and steps to an error.

Shape legend: B rows of one token each, D width, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evidence.checks.blocks import Net, error, train
from evidence.checks.clusters import OUT, WIDTH, Clusters, mean_error, net, routes
from roster.context import Context

STEPS = 600


class EasyAndHard(Clusters):
    """Clusters of which the first half want next to nothing of their tokens, the others twice as much as usual.

    Args:
        count: of clusters, an even number.
    """

    def __init__(self, count: int):
        super().__init__(count)
        self.hard_from = count // 2
        nothing = torch.zeros(OUT)
        hard = self.functions[self.hard_from :]
        easy = [lambda x_BD: nothing.expand(len(x_BD), -1)] * self.hard_from
        self.functions = [*easy, *(_doubled(function) for function in hard)]


def _doubled(function: Any) -> Any:
    return lambda x_BD: 2 * function(x_BD)


class Direct(Net):
    """One block and a read-out without a residual: where the block adds nothing, the answer is zero."""

    def __init__(self, recipe: str, options: Mapping[str, Any] | None = None, hidden: int = 16):
        super().__init__(recipe, options, width=WIDTH, hidden=hidden, out=OUT)
        self.out = nn.Linear(WIDTH, OUT, bias=False)

    def forward(self, x_BD: Tensor, task_B: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Outputs [B, O]."""
        context = Context(len(x_BD), 1, task_ids_B=task_B) if context is None else context
        return self.out(self.blocks[0](x_BD[:, None], context)[:, 0])


def trained(
    field: type[Clusters],
    seed: int,
    recipe: str,
    options: Mapping[str, Any] | None = None,
    make: Callable[..., Net] = net,
    steps: int = STEPS,
    **more: Any,
) -> tuple[Net, Clusters]:
    """A net trained on a field of 12 clusters; the field is the same for all contenders of a seed."""
    torch.manual_seed(seed)
    ground = field(12)
    contender = make(recipe, options, **more)
    train(contender, ground.draw, steps)
    return contender, ground


def error_of(
    field: type[Clusters], seed: int, recipe: str, options: Mapping[str, Any] | None = None, **more: Any
) -> float:
    """Relative test error of a trained contender."""
    contender, ground = trained(field, seed, recipe, options, **more)
    return mean_error(contender, ground.draw)


def curve(seed: int, recipe: str, options: Mapping[str, Any] | None = None, steps: int = STEPS) -> Tensor:
    """Test error before every 20th step and at the end, on clusters whose frequencies fall as 1 / sqrt(n)."""
    torch.manual_seed(seed)
    ground = Clusters(12, skew=0.5)
    test = ground.draw(2048)
    contender, errors, step = net(recipe, options), [], 0

    def draw() -> Any:
        nonlocal step
        if step % 20 == 0:
            errors.append(error(contender.eval(), test))
            contender.train()
        step += 1
        return ground.draw()

    train(contender, draw, steps)
    return torch.tensor([*errors, error(contender, test)])


def share_to_reach(curve_N: Tensor, target: float) -> float:
    """Share of the training after which the error is at most `target`; 2 when it never is."""
    reached = (curve_N <= target).nonzero()
    return float(reached[0]) / (len(curve_N) - 1) if len(reached) else 2.0


@torch.no_grad()
def experts_per_token(contender: Net, ground: Clusters) -> tuple[Tensor, Tensor]:
    """(Number of experts of each of 4,096 tokens, their clusters)."""
    batch = ground.draw(4096)
    return routes(contender, batch)[0].chosen().sum(1).float(), batch[2]
