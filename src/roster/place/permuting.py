"""A checkpoint whose experts lie in the order of a placement: engines without maps, which give each device the next few
experts, place them so by themselves. The model computes the same.

Experts and the rows of their router change places together. Where an expert is stored under a number of its own, it
gets another number; where experts are stacked, slices are read in another order.

Shape legend: L layers, E experts, P slots.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from roster.errors import RosterError
from roster.header import Spec
from roster.merge.side_files import model_files
from roster.moe.adopting import find_experts
from roster.moe.gates import gate_of
from roster.offload.layout import stored_as
from roster.offload.recorder import fingerprint_of, gate_tensors
from roster.place.placement import Placement
from roster.routed.base import class_of, locate
from roster.weights import Checkpoint, Copy, Operand, Output, Plan, Rows, Views, make_plan, open_checkpoint
from roster.weights.plan import MAX_SHARD

_GROUPS = ("n_group", "num_expert_group", "expert_group")


def plan_permuted(
    folder: str | Path, placement: Placement, recorded: str | None = None, max_shard: int = MAX_SHARD
) -> Plan:
    """The checkpoint with its experts in another order, to be written by `roster.weights.run`.

    Args:
        folder: config and safetensors of a mixture of transformers.
        placement: each expert once.
        recorded: the fingerprint of the model that the placement was made for (`Routes.model`).
        max_shard: bytes of one file.

    Raises:
        RosterError: another model, copies, quantised weights, or a router that chooses by groups of neighbouring
            experts, which would be torn apart.
    """
    checkpoint = open_checkpoint(folder)
    if "quantization_config" in checkpoint.config:
        raise RosterError(f"{str(folder)!r} is quantised: its experts cannot be put in another order here")
    model = _skeleton(folder, checkpoint.folder)
    blocks = find_experts(model)
    _check(placement, model, blocks, folder)
    if recorded is not None and recorded != _fingerprint(model, blocks, checkpoint):
        raise RosterError(
            f"the routes were recorded from another model than {str(folder)!r}: its gates hold other values"
        )
    targets: dict[str, tuple[Spec, list[int]]] = {}
    for (name, block), slots in zip(blocks.items(), placement.slot_LP, strict=True):
        for parameter, spec in _by_expert(block, placement.experts).items():
            targets[f"{name}.{parameter}"] = (spec, slots.tolist())
    stored = stored_as(model, checkpoint.places, {name: spec for name, (spec, _) in targets.items()})
    lost = sorted(targets.keys() - stored.keys())
    if lost:
        raise RosterError(f"{str(folder)!r} does not hold {lost[0]!r} under any name that transformers knows")
    taken: dict[str, str] = {}  # by the new name: the tensor that it gets
    rows: dict[str, Rows] = {}
    for target, (_, order) in targets.items():
        for names in (pattern for pattern in stored[target].by_pattern):
            if stored[target].converter is None:
                rows[names[0][0]] = Rows(Operand(checkpoint, names[0][0]), order)
            else:
                taken |= {names[place][0]: names[expert][0] for place, expert in enumerate(order)}
    views = Views(checkpoint.name, rows)
    outputs = []
    for name, spec in checkpoint.specs.items():
        operand = Operand(views, name) if name in rows else Operand(checkpoint, taken.get(name, name))
        outputs.append(Output(name, spec, (operand,), Copy()))
    files = model_files(checkpoint.folder) | {"config.json": checkpoint.folder / "config.json"}
    return make_plan(outputs, [checkpoint], files=files, max_shard=max_shard, title="experts in another order")


def _fingerprint(model: PreTrainedModel, blocks: dict[str, nn.Module], checkpoint: Checkpoint) -> str:
    """As `roster.offload.traces.fingerprint` has it, of the stored gates."""
    gates = []
    for block, child in blocks.items():
        named = {f"{block}.{name}": tensor for name, tensor in gate_tensors(child).items()}
        found = stored_as(model, checkpoint.places, {name: Spec(t.dtype, tuple(t.shape)) for name, t in named.items()})
        stored = {name.removeprefix(f"{block}."): each.by_pattern[0][0][0] for name, each in found.items()}
        specs = checkpoint.specs
        gates.append({n: checkpoint.read(at, 0, specs[at].numel).view(specs[at].shape) for n, at in stored.items()})
    return fingerprint_of(gates)


def _skeleton(folder: str | Path, where: Path) -> PreTrainedModel:
    path, _ = locate(where)
    cls = class_of(folder, path, {})
    with torch.device("meta"):
        model: PreTrainedModel = cls(AutoConfig.from_pretrained(path))
    return model


def _check(placement: Placement, model: PreTrainedModel, blocks: dict[str, nn.Module], folder: str | Path) -> None:
    if placement.slot_LP.shape[1] != placement.experts:
        raise RosterError("a checkpoint holds each expert once: place without spare slots to write one")
    sizes = [int(getattr(block.experts, "num_experts", 0)) for block in blocks.values()]
    if sizes != [placement.experts] * len(placement.slot_LP):
        raise RosterError(
            f"the placement is for {len(placement.slot_LP)} layers of {placement.experts} experts; {str(folder)!r} has "
            f"{sizes}"
        )
    text = model.config.get_text_config()
    grouped = next((name for name in _GROUPS if (getattr(text, name, None) or 1) > 1), None)
    if grouped is not None:
        raise RosterError(
            f"the router of {str(folder)!r} chooses among groups of neighbouring experts ({grouped}="
            f"{getattr(text, grouped)}), which another order would tear apart; give the map to an engine that reads one"
        )


def _by_expert(block: nn.Module, experts: int) -> dict[str, Spec]:
    """Tensors of a block that have one row for each expert: the experts' own, and the router's."""
    gate = gate_of(block)
    named = {
        f"experts.{name}": tensor for name, tensor in block.get_submodule("experts").named_parameters(recurse=False)
    }
    if gate is None:
        raise RosterError(f"{type(block).__name__} has no router whose rows could be put in another order")
    own = next(name for name, child in block.named_children() if child is gate)
    named |= {f"{own}.{name}": tensor for name, tensor in gate.state_dict().items()}
    return {name: Spec(t.dtype, tuple(t.shape)) for name, t in named.items() if t.dim() and len(t) == experts}
