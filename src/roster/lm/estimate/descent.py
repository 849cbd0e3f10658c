"""How estimators that are torch modules are trained: all prompts at once by L-BFGS, or in batches by AdamW.

Both leave the caller's random numbers alone. What is minimised is the estimator's own business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def minimise(parameters: list[torch.Tensor], loss: Callable[[], torch.Tensor], rounds: int) -> float:
    """L-BFGS with a line search: for smooth losses over few parameters, it needs neither a rate nor a seed.

    Returns:
        the loss at the end.
    """
    import torch

    optimizer = torch.optim.LBFGS(parameters, max_iter=rounds, line_search_fn="strong_wolfe", tolerance_change=1e-7)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        return float(loss())


def in_batches(
    parameters: Sequence[torch.Tensor],
    loss: Callable[[torch.Tensor], torch.Tensor],
    count: int,
    *,
    epochs: int,
    rate: float,
    decay: float,
    batch: int = 64,
) -> None:
    """AdamW over shuffled batches of `count` prompts; `loss` takes the positions of a batch.

    Call it within `torch.random.fork_rng` and a seed, as the initial values need the same.
    """
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    for _ in range(epochs):
        for at in torch.randperm(count).split(batch):
            optimizer.zero_grad()
            loss(at).backward()
            optimizer.step()
