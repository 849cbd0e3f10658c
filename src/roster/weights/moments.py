"""What a killed training needs to go on with the same bits: weights by name, and Adam's moments of each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_MOMENTS = ("exp_avg", "exp_avg_sq")


def state_of(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """By name; a parameter that has had no gradient has no moments."""
    found = {f"weights:{name}": each.data for name, each in parameters.items()}
    for name, each in parameters.items():
        moments = optimizer.state.get(each)
        if moments:
            found |= {f"{moment}:{name}": moments[moment] for moment in _MOMENTS}
    return found


def restore(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor], done: int
) -> None:
    """Puts it back, after so many steps."""
    for name, each in parameters.items():
        each.data.copy_(state[f"weights:{name}"])
        if f"{_MOMENTS[0]}:{name}" in state:
            moments = {moment: state[f"{moment}:{name}"] for moment in _MOMENTS}
            optimizer.state[each] = {"step": torch.tensor(float(done)), **moments}
