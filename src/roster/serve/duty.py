"""Who was on duty in one pass: the mean weight of each expert over a row's tokens and all places that route.

Shape legend: B rows, S tokens of the pass, E experts.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor


class OnDuty:
    """A recorder of the passes within a with-block; keeps sums only.

    Args:
        model: the routed model.
        rows: B.
    """

    def __init__(self, model: Any, rows: int) -> None:
        self._mixture = model.roster
        self._sum_BE = torch.zeros(rows, len(model.roster.experts))
        self._sites = 0
        self._mask_BS: Tensor | None = None

    def __enter__(self) -> OnDuty:
        self._mixture.recorder = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._mixture.recorder = None

    def begin(self, input_ids: Tensor | None, mask: Tensor | None, *, continues: bool) -> None:
        """Called by the model before a pass."""
        self._mask_BS = mask

    def record(
        self,
        site: str,
        gates_BSE: Tensor,
        mask_BS: Tensor | None,
        tokens: Tensor | None,
        dropped_E: Tensor | None = None,
    ) -> None:
        """Called by each router with its weights."""
        gates_BSE = gates_BSE.detach().float()
        real_BS1 = torch.ones_like(gates_BSE[..., :1])
        if self._mask_BS is not None:
            real_BS1 = self._mask_BS[:, -gates_BSE.shape[1] :, None].to(gates_BSE)
        mean_BE = (gates_BSE * real_BS1).sum(1) / real_BS1.sum(1).clamp_min(1)
        self._sum_BE += mean_BE.to(self._sum_BE.device)
        self._sites += 1

    def mean_BE(self) -> Tensor:
        """[B, E]"""
        return self._sum_BE / max(self._sites, 1)
