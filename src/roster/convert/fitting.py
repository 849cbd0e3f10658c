"""Routers fitted to decisions that are known: rows W for which the softmax of W x comes near a target.

The tokens are those of a dense model's feed-forward blocks, layer by layer (`at_blocks`).

Shape legend: T tokens, E experts, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from roster.convert.dense import Dense
from roster.weights.layers import Progress, Send, run_layers
from roster.weights.texts import Texts

FLAT = 2.0**-13
"""What rows are multiplied by so that those chosen weigh the same: logits become tiny, their order stays. A power of
two, so that no type of weights rounds."""

Block = Callable[[int, Any, Tensor], nn.Module | None]
"""(layer, the dense block, what it read [T, D]) -> what takes its place for later layers; None leaves it."""


def at_blocks(dense: Dense, texts: Texts, then: Block, device: str = "cpu", progress: Progress | None = None) -> Tensor:
    """Sends texts through a dense model and shows each of its blocks what it reads.

    Args:
        dense: on disk.
        texts: to send.
        then: see `Block`.
        device: where layers run, one at a time.
        progress: told of layers done, and of how many there are.

    Returns:
        What leaves the last layer, [B, S, D].
    """

    def visit(number: int, layer: Any, send: Send) -> Tensor:
        read: list[Tensor] = []
        real: list[Tensor] = []

        def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            read.append(given[0].flatten(0, 1)[real[-1]].float())

        handle = layer.mlp.register_forward_pre_hook(look)
        out = send(real.append)
        handle.remove()
        with torch.enable_grad():
            instead = then(number, layer.mlp, torch.cat(read))
        if instead is None:
            return out
        layer.mlp = instead
        return send()

    return run_layers(dense.source, texts, visit, device=device, progress=progress)


def fit_rows(x_TD: Tensor, target_TE: Tensor, steps: int = 100, decay: float = 1e-4) -> Tensor:
    """Rows [E, D] with the least cross-entropy against targets, by L-BFGS.

    Args:
        x_TD: tokens.
        target_TE: of each, what the softmax should be.
        steps: of L-BFGS at most.
        decay: of the rows' squares.
    """
    x_TD, target_TE = x_TD.detach().float(), target_TE.detach().float()
    rows_ED = torch.zeros(target_TE.shape[1], x_TD.shape[1], device=x_TD.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([rows_ED], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        apart = -(target_TE * (x_TD @ rows_ED.T).log_softmax(-1)).sum(-1).mean() + decay * (rows_ED**2).sum()
        apart.backward()
        return apart

    with torch.enable_grad():
        optimizer.step(loss)
    return rows_ED.detach().cpu()


def top_mask(score_TE: Tensor, k: int) -> Tensor:
    """1 where a score is among the k best of its token, else 0."""
    return torch.zeros_like(score_TE).scatter_(1, score_TE.topk(k).indices, 1.0)


class Carved(nn.Module):
    """A dense block cut into experts, as the container will compute it: what later layers are shown.

    Args:
        block: the dense one.
        always: hidden units that are always on.
        experts: hidden units of each expert.
        rows_ED: of the router.
        k: experts that a token gets.
        factor: what a chosen expert's answer is multiplied by.
    """

    def __init__(
        self, block: Any, always: list[int], experts: list[list[int]], rows_ED: Tensor, k: int, factor: float
    ) -> None:
        super().__init__()
        self.block, self.always, self.experts, self.k, self.factor = block, always, experts, k, factor
        self.rows_ED = rows_ED

    def forward(self, x: Tensor) -> Tensor:
        """Shaped as x."""
        middle = self.block.act_fn(self.block.gate_proj(x)) * self.block.up_proj(x)
        chosen = top_mask((x @ self.rows_ED.to(x).T).flatten(0, -2), self.k).view(*x.shape[:-1], -1) * self.factor
        on = torch.zeros_like(middle)
        on[..., self.always] = 1.0
        for number, units in enumerate(self.experts):
            on[..., units] += chosen[..., number : number + 1]
        made: Tensor = self.block.down_proj(middle * on)
        return made
