"""Shortcut: a block that reads what the preceding mixture of the model read.

Shape legend: B batch rows, S tokens per row, D model width.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.context import Context


class Shortcut(nn.Module):
    """Another block, one mixture back; the first mixture of a model reads its own input.

    Args:
        block: `(x_BSD, context) -> [B, S, D]`.
        index: which of the model's mixtures this is, counted from 0.
    """

    def __init__(self, block: nn.Module, index: int):
        super().__init__()
        self.block, self.index = block, index

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D]; leaves its own input for the next one."""
        context.memory[f"shortcut/{self.index}"] = x_BSD
        y_BSD: Tensor = self.block(context.memory.get(f"shortcut/{self.index - 1}", x_BSD), context)
        return y_BSD
