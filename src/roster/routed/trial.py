"""A trial of a model before anything is attached to it: which rows its layers read, and in which order.

A layer that reads the sequence before the batch has as many rows as its model has tokens. Where a batch has as many
prompts as a prompt has tokens even the shape is the same, and one prompt's rows would be routed as another's, without a
word. So every layer that is to be routed is first called with fewer tokens than prompts, two of which are the same.

Shapes are seen on a model of the same class and config without weights (on torch's meta device). Only rows that come
flattened need values to tell their order, and only those, or a class that cannot be run without weights, have the model
itself run once. A layer that this call does not reach is held by `check_rows` alone, at every call.

Shape legend: B batch rows, S tokens per row, X width of what a layer reads.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from roster.context import Context
from roster.errors import RosterError
from roster.routed.placement import device_of
from roster.routed.streams import check_rows, side_of

_ROWS, _READ, _WRITTEN = 3, 2, 4  # prompts, tokens of each, and tokens of a decoder's: no two products are alike


@dataclass
class _Calls:
    """What the layers under trial were called with, and what they returned, by name."""

    inputs: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    finished: bool = False


def try_layers(model: PreTrainedModel, names: Iterable[str], *, updated: bool = False) -> None:
    """RosterError for a layer that does not read the tokens of a call row by row.

    Args:
        model: the base, with nothing attached.
        names: of the layers that are to be routed; of layers whose names differ in numbers alone, one is tried.
        updated: whether updates are added to what the layers return, which must then be a tensor.
    """
    left = {re.sub(r"\d+", "#", name): name for name in reversed(list(names))}
    for weights in (False, True):
        calls = _call(model if weights else _skeleton(model), left.values())
        for kind, name in list(left.items()):
            for output in calls.outputs[name] if updated else ():
                check_output(output, name)
            settled = [_settle(x, name, _context(model, name)) for x in calls.inputs[name]]
            if all(settled) and (settled or calls.finished):
                del left[kind]
        if not left:
            return


def check_output(output: Any, name: str) -> None:
    """RosterError for a layer that returns more than a tensor."""
    if not isinstance(output, Tensor):
        raise RosterError(
            f"the layer {name!r} returns a {type(output).__name__}, to which no update can be added: leave it "
            "out of the adapters' target_modules"
        )


def _settle(x: Tensor, name: str, context: Context) -> bool:
    """Whether it shows that rows are the tokens in their order; RosterError where it shows that they are not."""
    check_rows(x, context, name)
    if x.dim() > 2:
        return True
    if x.is_meta:
        return False
    x_BSX = x.reshape(_ROWS, context.length, -1).float()
    same, other = (float((x_BSX[0] - x_BSX[index]).abs().max()) for index in (1, 2))
    if same > other / 2:  # the first two prompts are the same one
        raise RosterError(
            f"the layer {name!r} reads the tokens of a call in another order than row by row (the sequence before the "
            "batch?), so that their routes cannot be told apart: leave it out of the adapters' target_modules"
        )
    return True


def _context(model: PreTrainedModel, name: str) -> Context:
    """What a layer is called for in the trial."""
    return Context(_ROWS, _WRITTEN if side_of(model, name) == "decoder" else _READ)


def _skeleton(model: PreTrainedModel) -> PreTrainedModel | None:
    """A model of the same class and config without weights; None where one cannot be made."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"  # others have kernels that know nothing of tensors without values
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return type(model)(config)
    except Exception:  # whatever a class of others raises when it is made in an unusual way
        return None


def _call(model: PreTrainedModel | None, names: Iterable[str]) -> _Calls:
    """Calls a model once, as far as it comes."""
    calls = _Calls()
    if model is None:
        return calls

    def reads(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read = args[0] if args else kwargs.get("hidden_states")
        if isinstance(read, Tensor):
            calls.inputs[name].append(read.clone())

    def returns(name: str, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls.outputs[name].append(output)

    known, modes = dict(model.named_modules()), {module: module.training for module in model.modules()}
    tried = [name for name in names if name in known]
    # Before the layer runs: blocks that sort tokens by expert read something without weights, too, but return nothing.
    hooks = [known[name].register_forward_pre_hook(partial(reads, name), with_kwargs=True) for name in tried]
    hooks += [known[name].register_forward_hook(partial(returns, name)) for name in tried]
    try:
        device = device_of(model.get_input_embeddings())
        given = {"input_ids": _tokens(model, _READ, device)}
        if getattr(model.config, "is_encoder_decoder", False):
            given["decoder_input_ids"] = _tokens(model, _WRITTEN, device)
        with torch.no_grad():
            model.eval()(**given)
        calls.finished = True
    except Exception:  # whatever a model of others raises; what its layers read before that counts
        pass
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return calls


def _tokens(model: PreTrainedModel, length: int, device: torch.device) -> Tensor:
    """Prompts of which the first two are the same, and the third is another, [B, S]."""
    size = getattr(model.config.get_text_config(), "vocab_size", 2 * _ROWS)
    ids = [[(start + step) % size for step in range(length)] for start in (size // 2, size // 2, size // 3)]
    return torch.tensor(ids, device=device)
