"""Running a mixture layer by layer: one decoder layer's weights are in memory at a time.

The model is transformers' own class without weights; each layer gets its own when it is called, answers all calibration
rows, is watched while it does, changed where the method wants that later layers see what became of earlier ones, and
let go. Experts run here one after the other instead of in transformers' grouped kernels: the same sums, with each
expert's inputs and outputs at hand.

Shape legend: B rows, S tokens of a row, T = B * S, K chosen per token, E experts, D model width.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from roster.compress.mixture import Mixture, read
from roster.compress.seen import SAMPLE, Seen
from roster.compress.texts import Texts

AT_ONCE = 8
"""Rows that a layer reads in one go."""

Watch = Callable[[int, Seen, nn.Module], bool]
"""Told of each mixture when all rows went through it: number of the layer, what was seen, and the block, which it may
change; True when it did."""


@torch.no_grad()
def calibrate(
    mixture: Mixture,
    texts: Texts,
    watch: Watch,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Sends texts through a mixture, layer by layer, in float32 (in the checkpoint's type on a GPU).

    Args:
        mixture: on disk.
        texts: to send.
        watch: is told of each layer that is a mixture.
        device: where layers run.
        progress: told of layers done, and of how many there are.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(str(mixture.source.folder))
    with init_empty_weights(include_buffers=False):
        model: Any = AutoModel.from_config(config).eval()
    device = torch.device(device)
    weight = mixture.source.specs["model.embed_tokens.weight"].dtype
    dtype = torch.float32 if device.type == "cpu" else weight
    model.embed_tokens = _embedding(mixture, device, dtype)
    model.norm = nn.Identity()
    model.rotary_emb.to(device)
    run = _Run(mixture, texts.mask_BS.bool().to(device), watch, device, dtype)
    for number, layer in enumerate(model.layers):
        layer.forward = run.layer(number, layer, len(model.layers), progress)
    model(
        input_ids=texts.ids_BS.to(device),
        attention_mask=None if bool(texts.mask_BS.all()) else texts.mask_BS.to(device),
        use_cache=False,
    )


@dataclass
class _Run:
    mixture: Mixture
    mask_BS: Tensor
    watch: Watch
    device: torch.device
    dtype: torch.dtype

    def layer(self, number: int, layer: Any, count: int, progress: Callable[[int, int], None] | None) -> Any:
        """The forward pass of a layer that loads, watches, and lets go."""
        own = layer.forward

        def forward(hidden_BSD: Tensor, **given: Any) -> Tensor:
            load_layer(self.mixture, number, layer, self.device, self.dtype)
            block = layer.mlp
            if number in self.mixture.layers:
                seen = Seen.nothing(self.mixture.experts, self.mixture.width, self.mixture.hidden, _act(block.experts))
                with watched(block, seen, SAMPLE // -(-len(hidden_BSD) // AT_ONCE)) as step:
                    out = self._rows(own, hidden_BSD, given, step)
                if self.watch(number, seen, block):
                    with watched(block, None, 0) as step:
                        out = self._rows(own, hidden_BSD, given, step)
            else:
                out = self._rows(own, hidden_BSD, given, None)
            layer.to("meta")
            if progress is not None:
                progress(number + 1, count)
            return out

        return forward

    def _rows(self, own: Any, hidden_BSD: Tensor, given: dict[str, Any], step: Any) -> Tensor:
        rows = len(hidden_BSD)
        out = []
        for start in range(0, rows, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            if step is not None:
                step(self.mask_BS[part].flatten())
            out.append(own(hidden_BSD[part], **{name: _cut(each, part, rows) for name, each in given.items()}))
        return torch.cat(out)


def _cut(value: Any, part: slice, rows: int) -> Any:
    """What belongs to some rows: tensors with one entry a row are cut, all else serves every row."""
    if isinstance(value, Tensor):
        return value[part] if value.dim() > 1 and value.shape[0] == rows else value
    if isinstance(value, tuple):
        return tuple(_cut(each, part, rows) for each in value)
    return value


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
        yield lambda mask_T: real.append(mask_T)
    finally:
        del experts.forward


def load_layer(mixture: Mixture, number: int, layer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Gives a layer without weights its own."""
    at = f"model.layers.{number}."
    state = {}
    for name in dict(layer.named_parameters()):
        if number in mixture.layers and name.startswith("mlp.experts."):
            experts = [mixture.matrices(number, e) for e in range(mixture.experts)]
            down = name.endswith("down_proj")
            each = [one["down"] if down else torch.cat([one["gate"], one["up"]]) for one in experts]
            state[name] = torch.stack(each).to(device, dtype)
        elif number in mixture.layers and name == "mlp.gate.weight":
            state[name] = read(mixture.router(number)).to(device, dtype)
        else:
            spec = mixture.source.specs[at + name]
            state[name] = mixture.source.read(at + name, 0, spec.numel).view(spec.shape).to(device, dtype)
    layer.load_state_dict(state, strict=True, assign=True)


def _embedding(mixture: Mixture, device: torch.device, dtype: torch.dtype) -> nn.Embedding:
    name = "model.embed_tokens.weight"
    spec = mixture.source.specs[name]
    weight = mixture.source.read(name, 0, spec.numel).view(spec.shape)
    made: nn.Embedding = nn.Embedding.from_pretrained(weight.to(device, dtype))
    return made


def _act(experts: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def act(gate: Tensor, up: Tensor) -> Tensor:
        made: Tensor = experts._apply_gate(torch.cat([gate, up], dim=-1))
        return made

    return act
