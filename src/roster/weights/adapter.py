"""A PEFT adapter on a checkpoint, as a source: the base's tensors with the update added while they are read.

The update stays in its two factors; `B A` is computed for the rows that are read, in blocks of `ROWS` rows that start
at the matrix's start, so that the bits do not depend on where pieces are cut.

Shape legend: R rank, O out_features (rows), I in_features (columns).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from roster.errors import RosterError, nearest
from roster.header import Spec
from roster.library import LowRank, read_adapter
from roster.library.adapter import Magnitude, Vector
from roster.library.soft_prompt import check_has_weights
from roster.weights.source import Checkpoint

ROWS = 64


class Adapted:
    """A base with one adapter merged into it.

    Attributes:
        name: what the user called it, "base+adapter".
        folder, config: the base's.
    """

    def __init__(self, base: Checkpoint, adapter: Path, name: str) -> None:
        """Raises RosterError: the adapter cannot be read, or changes a tensor that the base does not have."""
        self.name = name
        self.folder, self.config = base.folder, base.config
        self._base = base
        found = read_adapter(adapter)
        check_has_weights(found, "merging an adapter into its base")
        self._hash = found.weights_hash
        self._updates = {f"{module}.weight": update for module, update in found.modules.items()}
        for tensor, update in self._updates.items():
            if isinstance(update, Vector):
                raise RosterError(
                    f"the adapter {str(adapter)!r} is an (IA)3, which rescales weights and biases instead of adding to "
                    "them: put it into its base with PEFT (`merge_and_unload`) first"
                )
            shape = (update.B_OR.shape[0], update.A_RD.shape[1])
            if tensor not in base.specs:
                raise RosterError(
                    f"the adapter {str(adapter)!r} changes {tensor!r}, which {base.name!r} does not have: "
                    f"{nearest(tensor, base.specs)}"
                )
            if base.specs[tensor].shape != shape:
                raise RosterError(
                    f"the adapter {str(adapter)!r} changes {tensor!r} as {list(shape)}, but in {base.name!r} it is "
                    f"{base.specs[tensor]}"
                )

    @property
    def specs(self) -> Mapping[str, Spec]:
        """The base's."""
        return self._base.specs

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """See `Source.read`; a tensor that the adapter changes is float32, so that nothing is rounded twice."""
        values = self._base.read(name, start, stop)
        update = self._updates.get(name)
        if update is None or stop == start:
            return values
        width = self.specs[name].shape[1]
        first, last = start // width, -(-stop // width)
        if isinstance(update, Magnitude):
            whole_OI = self._base.read(name, first * width, last * width).float().view(-1, width)
            return _normed(update, whole_OI, first).flatten()[start - first * width : stop - first * width]
        delta, first = _rows(update, first, last)
        return values.float().add_(delta.flatten()[start - first * width : stop - first * width])

    def fingerprint(self) -> str:
        """Of the base and of the adapter's content."""
        return self._base.fingerprint() + self._hash


def _normed(update: Magnitude, W_OI: Tensor, first: int) -> Tensor:
    """Rows of a DoRA's weights, from those of the base from `first` on: `m (W + s B A) / |W + s B A|`, row by row."""
    delta_OI, start = _rows(update, first, first + len(W_OI))
    V_OI = W_OI + delta_OI[first - start : first - start + len(W_OI)]
    magnitude_O = update.magnitude_O[first : first + len(W_OI)].float()
    normed_OI: Tensor = V_OI * (magnitude_O / torch.linalg.vector_norm(V_OI, dim=1))[:, None]
    return normed_OI


def _rows(update: LowRank, first: int, last: int) -> tuple[Tensor, int]:
    """Rows [first, last) of the update and some before and after; the number of the first that is there."""
    first -= first % ROWS
    A_RI, B_OR = update.A_RD.float(), update.B_OR.float()
    blocks = [B_OR[at : at + ROWS] @ A_RI for at in range(first, last, ROWS)]
    return torch.cat(blocks).mul_(update.scale), first
