"""Recording routes: which experts a running model's tokens visit, and which model that is.

Works on any mixture that transformers stacks, whether or not its experts are offloaded. What is recorded is
`traces.Routes`.

Shape legend: T tokens of a call, B rows, S positions, L layers with experts, K chosen per token, A = K + `EXTRA`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from roster.errors import RosterError
from roster.moe.adopting import find_experts
from roster.offload.experts import SITE, gate_choices
from roster.offload.strategy import Geometry
from roster.offload.traces import NOBODY, Ints, Routes, Shorts

EXTRA = 2
"""Experts beyond K that are recorded of the next layer's gate."""


def fingerprint(model: nn.Module) -> str:
    """Of a model's decisions: the values of its gates, wherever the model lies and whatever holds its experts.

    Rounded to bfloat16, so that it does not depend on the type that the model is loaded in.
    """
    return fingerprint_of([gate_tensors(block) for block in blocks(model).values()])


def gate_tensors(block: nn.Module) -> dict[str, Tensor]:
    """What a block's gate decides by, by name in the block."""
    return {name: t for name, t in block.state_dict().items() if name.startswith(("gate.", "router."))}


def fingerprint_of(gates: Sequence[Mapping[str, Tensor]]) -> str:
    """Of the gates' tensors, layer by layer."""
    digest = hashlib.sha256()
    for gate in gates:
        for name in sorted(gate):
            digest.update(f"{name}{tuple(gate[name].shape)}".encode())
            digest.update(
                gate[name].detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
            )
    return digest.hexdigest()


def check_model(routes: Routes, model: nn.Module) -> None:
    """Raises RosterError where routes were recorded from another model."""
    if routes.model != fingerprint(model):
        raise RosterError(
            "these routes were recorded from another model (its gates hold other values): record this one's with "
            "`roster trace`"
        )


def blocks(model: nn.Module) -> dict[str, Any]:
    """The blocks around experts by name, in the order of the layers, offloaded or not."""
    held = {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "experts", None), nn.Module) and SITE in module.experts.__dict__
    }
    return held or find_experts(model)


class Recorder:
    """Collects routes while a model runs; see `recording`."""

    def __init__(self, geometry: Geometry, model: str) -> None:
        self._geometry, self._model = geometry, model
        self._chosen: list[Shorts] = []
        self._ahead: list[Shorts] = []
        self._ids: list[Ints] = []
        self._prompts: list[int] = []
        self._call: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._ids_BS: Tensor | None = None
        self._keep_BS: Tensor | None = None

    def begin(self, ids_BS: Tensor, mask_BS: Tensor | None, prompt: int | None) -> None:
        """A call of the model starts new sequences; `prompt` of each one's tokens count as read in one call."""
        self._ids_BS = ids_BS.cpu()
        self._keep_BS = torch.ones_like(self._ids_BS, dtype=torch.bool) if mask_BS is None else mask_BS.cpu().bool()
        self._call = {}
        self._prompt = prompt

    def layer(self, index: int, chosen_TK: Tensor, next_TA: Tensor | None) -> None:
        """A layer has decided."""
        self._call[index] = (chosen_TK.cpu(), None if next_TA is None else next_TA.cpu())

    def end(self) -> None:
        """The call is over."""
        assert self._ids_BS is not None
        assert self._keep_BS is not None
        B, S = self._ids_BS.shape
        L, K = len(self._geometry.experts), self._geometry.k
        chosen_BSLK = np.full((B, S, L, K), NOBODY, np.int16)
        ahead_BSLA = np.full((B, S, L, K + EXTRA), NOBODY, np.int16)
        for index, (chosen_TK, next_TA) in self._call.items():
            own = chosen_TK.reshape(B, S, -1).numpy()
            chosen_BSLK[:, :, index, : own.shape[-1]] = np.where(own < self._geometry.experts[index], own, NOBODY)
            if next_TA is not None:
                ahead_BSLA[:, :, index + 1, : next_TA.shape[-1]] = next_TA.reshape(B, S, -1).numpy()
        for row in range(B):
            keep_S = self._keep_BS[row].numpy()
            self._chosen.append(chosen_BSLK[row][keep_S])
            self._ahead.append(ahead_BSLA[row][keep_S])
            self._ids.append(self._ids_BS[row].numpy()[keep_S].astype(np.int32))
            length = int(keep_S.sum())
            self._prompts.append(length if self._prompt is None else min(self._prompt, length))

    def routes(self) -> Routes:
        """What was recorded.

        Raises:
            RosterError: nothing was.
        """
        if not self._ids:
            raise RosterError("no routes were recorded: the model was not called")
        starts = np.cumsum([0, *map(len, self._ids)]).astype(np.int32)
        return Routes(
            np.concatenate(self._chosen),
            np.concatenate(self._ahead),
            np.concatenate(self._ids),
            starts,
            np.array(self._prompts, np.int32),
            self._geometry,
            self._model,
        )


@contextmanager
def recording(model: PreTrainedModel, prompt: int | None = None) -> Iterator[Recorder]:
    """Records the routes of every call inside the with-block, whether or not the model's experts are offloaded.

    Each row of a call is a sequence of its own (pads left out): to record what a model would do token by token, give it
    the whole text at once, which decides the same.

    Args:
        model: a mixture of transformers.
        prompt: how many tokens of a sequence count as read in one call; None: all of them.
    """
    found = blocks(model)
    sizes = [int(block.experts.num_experts) for block in found.values()]
    text = model.config.get_text_config()
    recorder = Recorder(Geometry(tuple(sizes), _k(model, found), text.vocab_size), fingerprint(model))
    handles = [
        model.register_forward_pre_hook(lambda _, args, named: _begin(recorder, args, named, prompt), with_kwargs=True),
        model.register_forward_hook(lambda *_: recorder.end()),
    ]
    ordered = list(found.values())
    for index, block in enumerate(ordered):
        following = ordered[index + 1] if index + 1 < len(ordered) else None

        def keep(_: Any, args: Any, named: Any, index: int = index, following: nn.Module | None = following) -> None:
            given = [*args, *named.values()]
            ahead = None if following is None else gate_choices(following, given[0], EXTRA)
            recorder.layer(index, given[1], ahead)

        handles.append(block.experts.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _begin(recorder: Recorder, args: Any, named: Any, prompt: int | None) -> None:
    ids = named.get("input_ids", args[0] if args else None)
    if ids is None:
        raise RosterError("routes are recorded of token ids: give the model input_ids")
    mask = named.get("attention_mask")
    recorder.begin(ids, mask if mask is not None and mask.shape == ids.shape else None, prompt)


def _k(model: PreTrainedModel, found: dict[str, Any]) -> int:
    """How many experts a token visits, found out: the gate is asked about one."""
    block = next(iter(found.values()))
    with torch.no_grad():
        width = model.config.get_text_config().hidden_size
        probe = torch.zeros(1, width, dtype=model.dtype, device=model.device)
        chosen = gate_choices(block, probe, 0)
    if chosen is None:
        raise RosterError(f"the gate of {type(block).__name__} does not tell whom it chooses: its routes stay unknown")
    return int(chosen.shape[1])
