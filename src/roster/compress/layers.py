"""Calibration: texts through a mixture, layer by layer, each mixture watched while it answers.

Experts run here one after the other instead of in transformers' grouped kernels: the same sums, with each expert's
inputs and outputs at hand.

Shape legend: T tokens, K chosen per token, E experts, D model width.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from roster.compress.mixture import Mixture, read
from roster.compress.seen import SAMPLE, Seen
from roster.weights.layers import AT_ONCE, Progress, Send, run_layers
from roster.weights.texts import Texts

Watch = Callable[[int, Seen, nn.Module], bool]
"""Told of each mixture when all rows went through it: number of the layer, what was seen, and the block, which it may
change; True when it did, and later layers are to see what became of it."""


def calibrate(
    mixture: Mixture,
    texts: Texts,
    watch: Watch,
    *,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> None:
    """Sends texts through a mixture, see `roster.weights.layers.run_layers`.

    Args:
        mixture: on disk.
        texts: to send.
        watch: is told of each layer that is a mixture.
        device: where layers run.
        progress: told of layers done, and of how many there are.
    """
    sample = max(SAMPLE // -(-len(texts.ids_BS) // AT_ONCE), 1)

    def visit(number: int, layer: Any, send: Send) -> Tensor:
        if number not in mixture.layers:
            return send()
        block = layer.mlp
        seen = Seen.nothing(mixture.experts, mixture.width, mixture.hidden, _act(block.experts))
        with watched(block, seen, sample) as step:
            out = send(step)
        if not watch(number, seen, block):
            return out
        with watched(block, None, 0) as step:
            return send(step)

    def load(number: int, layer: nn.Module) -> dict[str, Tensor]:
        return load_layer(mixture, number, layer)

    run_layers(mixture.source, texts, visit, load=load, device=device, progress=progress)


@contextmanager
def watched(block: Any, seen: Seen | None, sample: int) -> Iterator[Callable[[Tensor], None]]:
    """A block whose experts run one by one and are seen; the function told beforehand which tokens count, [T]."""
    real: list[Tensor] = []
    experts, gate = block.experts, block.gate

    def forward(self: Any, x_TD: Tensor, chosen_TK: Tensor, weight_TK: Tensor) -> Tensor:
        out_TD = torch.zeros_like(x_TD)
        counted_T = real[-1]
        for e in range(self.num_experts):
            token, slot = (chosen_TK == e).nonzero(as_tuple=True)
            if not len(token):
                continue
            x, weight = x_TD[token], weight_TK[token, slot]
            middle = self._apply_gate(linear(x, self.gate_up_proj[e]))
            out = linear(middle, self.down_proj[e])
            out_TD.index_add_(0, token, out * weight[:, None])
            if seen is not None:
                kept = counted_T[token]
                seen.expert(e, x[kept], weight[kept], middle[kept], out[kept])
        if seen is not None:
            x_TD = x_TD[counted_T]
            seen.tokens(x_TD, linear(x_TD, gate.weight), sample)
        return out_TD

    experts.forward = types.MethodType(forward, experts)
    try:
        yield real.append
    finally:
        del experts.forward


def load_layer(mixture: Mixture, number: int, layer: nn.Module) -> dict[str, Tensor]:
    """A layer's state as transformers has it in memory, experts fused."""
    state = {}
    for name in dict(layer.named_parameters()):
        whole = f"model.layers.{number}.{name}"
        if number in mixture.layers and name.startswith("mlp.experts."):
            experts = [mixture.matrices(number, e) for e in range(mixture.experts)]
            down = name.endswith("down_proj")
            state[name] = torch.stack([e["down"] if down else torch.cat([e["gate"], e["up"]]) for e in experts])
        elif number in mixture.layers and name == "mlp.gate.weight":
            state[name] = read(mixture.router(number))
        else:
            spec = mixture.source.specs[whole]
            state[name] = mixture.source.read(whole, 0, spec.numel).view(spec.shape)
    return state


def _act(experts: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def act(gate: Tensor, up: Tensor) -> Tensor:
        made: Tensor = experts._apply_gate(torch.cat([gate, up], dim=-1))
        return made

    return act
