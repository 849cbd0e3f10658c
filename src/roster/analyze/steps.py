"""One forward call's routes, on the CPU: what a trace is made of.

Covers one step and the fitting of its mask; how steps join is `trace.py`.

Shape legend: B batch, S positions, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from roster.errors import RosterError


@dataclass
class Step:
    """One forward call, on the CPU."""

    ids_BS: Tensor | None
    mask: Tensor | None
    continues: bool
    shape: tuple[int, int] | None = None
    gates: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, Tensor] = field(default_factory=dict)

    def keep_BS(self) -> Tensor:
        """True for real tokens, false for pads."""
        assert self.shape is not None
        return torch.ones(self.shape, dtype=torch.bool) if self.mask is None else self.mask

    def site_BSE(self, site: str, experts: int) -> Tensor:
        """The gates of one site; zeros where the site was not reached in this step."""
        assert self.shape is not None
        found = self.gates.get(site)
        return torch.zeros(*self.shape, experts) if found is None else found

    def mean_BSE(self, experts: int) -> Tensor:
        """The mean over the sites that this step reached."""
        if not self.gates:
            return self.site_BSE("", experts)
        return torch.stack(list(self.gates.values())).mean(0)


def batch_of(steps: list[Step]) -> int:
    """The batch size that all steps of a segment share."""
    assert steps[0].shape is not None
    return steps[0].shape[0]


def to_cpu(tensor: Tensor | None) -> Tensor | None:
    """A copy: the caller may reuse its buffer for the next step."""
    return None if tensor is None else tensor.detach().to("cpu", copy=True)


def fit_mask(mask: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """The last S columns of a mask, as bool [B, S]."""
    assert mask is not None
    if mask.ndim != 2 or mask.shape[0] != shape[0] or mask.shape[1] < shape[1]:
        raise RosterError(f"trace: a mask for {shape} tokens must be [B, S], got {tuple(mask.shape)}")
    return mask[:, mask.shape[1] - shape[1] :] != 0
