"""Running a decoder layer by layer: one layer's weights are in memory at a time.

The model is transformers' own class without weights. Each layer gets its own when its turn comes, answers all rows, may
be changed and asked again, and is let go.

Shape legend: B rows, S tokens of a row, D model width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from roster.errors import RosterError
from roster.weights.source import Model
from roster.weights.texts import Texts

AT_ONCE = 8
"""Rows that a layer reads in one go."""

Progress = Callable[[int, int], None]
"""Told of layers done, and of how many there are."""


class Send(Protocol):
    """Sends all rows through a layer as it is now."""

    def __call__(self, before: Callable[[Tensor], None] | None = None) -> Tensor:
        """What comes out, [B, S, D]; `before` is told which tokens of each step are there (flat, bool)."""


Visit = Callable[[int, Any, Send], Tensor]
"""(number, layer, send) -> what the next layer reads."""

Load = Callable[[int, nn.Module], dict[str, Tensor]]
"""(number, layer without weights) -> its state."""


@torch.no_grad()
def run_layers(
    source: Model,
    texts: Texts,
    visit: Visit,
    *,
    load: Load | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """Texts through a checkpoint's layers, in float32 (in the checkpoint's type on a GPU).

    Args:
        source: with `model.embed_tokens` and `model.layers.N`, as Llama and its kin have them.
        texts: to send.
        visit: has each layer's turn.
        load: where a layer's state comes from; by default the tensors of its names.
        device: where layers run.
        progress: see `Progress`.

    Returns:
        What leaves the last layer, before the last norm, [B, S, D].

    Raises:
        RosterError: a layer answers with values that are not finite.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(str(source.folder))
    with init_empty_weights(include_buffers=False):
        model: Any = AutoModel.from_config(config).eval()
    device = torch.device(device)
    embedding = source.specs["model.embed_tokens.weight"]
    dtype = torch.float32 if device.type == "cpu" else embedding.dtype
    model.embed_tokens = nn.Embedding.from_pretrained(
        source.read("model.embed_tokens.weight", 0, embedding.numel).view(embedding.shape).to(device, dtype)
    )
    model.norm = nn.Identity()
    model.rotary_emb.to(device)
    run = _Run(source.name, texts.mask_BS.bool().to(device), visit, load or _plain(source), device, dtype, progress)
    for number, layer in enumerate(model.layers):
        layer.forward = run.layer(number, layer, len(model.layers))
    out = model(
        input_ids=texts.ids_BS.to(device),
        attention_mask=None if bool(texts.mask_BS.all()) else texts.mask_BS.to(device),
        use_cache=False,
    )
    hidden_BSD: Tensor = out.last_hidden_state
    return hidden_BSD


@dataclass
class _Run:
    name: str
    mask_BS: Tensor
    visit: Visit
    load: Load
    device: torch.device
    dtype: torch.dtype
    progress: Progress | None

    def layer(self, number: int, layer: Any, count: int) -> Any:
        """The forward pass of a layer that loads, has its turn, and lets go."""
        own = layer.forward

        def forward(hidden_BSD: Tensor, **given: Any) -> Tensor:
            state = {name: each.to(self.device, self.dtype) for name, each in self.load(number, layer).items()}
            layer.load_state_dict(state, strict=True, assign=True)

            def send(before: Callable[[Tensor], None] | None = None) -> Tensor:
                out = self._rows(own, hidden_BSD, given, before)
                if not bool(out.isfinite().all()):
                    raise RosterError(
                        f"layer {number} of {self.name!r} answers with values that are not finite (NaN or infinity): "
                        "its weights are damaged, or too large for their type"
                    )
                return out

            out = self.visit(number, layer, send)
            layer.to("meta")
            if self.progress is not None:
                self.progress(number + 1, count)
            return out

        return forward

    def _rows(self, own: Any, hidden_BSD: Tensor, given: dict[str, Any], before: Any) -> Tensor:
        rows = len(hidden_BSD)
        out = []
        for start in range(0, rows, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            if before is not None:
                before(self.mask_BS[part].flatten())
            out.append(own(hidden_BSD[part], **{name: _cut(each, part, rows) for name, each in given.items()}))
        return torch.cat(out)


def _cut(value: Any, part: slice, rows: int) -> Any:
    """What belongs to some rows: tensors with one entry a row are cut, all else serves every row."""
    if isinstance(value, Tensor):
        return value[part] if value.dim() > 1 and value.shape[0] == rows else value
    if isinstance(value, tuple):
        return tuple(_cut(each, part, rows) for each in value)
    return value


def _plain(source: Model) -> Load:
    def load(number: int, layer: nn.Module) -> dict[str, Tensor]:
        state = {}
        for name in dict(layer.named_parameters()):
            whole = f"model.layers.{number}.{name}"
            spec = source.specs[whole]
            state[name] = source.read(whole, 0, spec.numel).view(spec.shape)
        return state

    return load
