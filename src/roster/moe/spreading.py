"""Spreading a model with routed blocks over the processes of a training, each of which sees a part of every batch.

    experts    whole experts of every block lie on different processes; rows travel (`roster.dispatch.exchange`). All
               other tensors are sharded as below.
    shards     every tensor is sharded by torch's FSDP2 and gathered where it is needed; rows stay.
    copies     every process keeps the whole model, and DistributedDataParallel averages gradients.

Balance losses, load counts and capacities then count the tokens of all processes, in training; at evaluation a process
stands alone. Selections that look at all tokens of a call (expert choice, assignment, Sinkhorn) look at those of their
own process. Names of tensors stay as they are, so that the model is saved as any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from roster.errors import RosterError
from roster.experts import FeedForwardExperts
from roster.moe.replacing import routed_blocks
from roster.routed.taps import blocks_of
from roster.router import Router

Spread = Literal["experts", "shards", "copies"]


def spread(model: Any, how: Spread = "experts", mesh: DeviceMesh | None = None) -> Any:
    """Spreads a model, in place, over the processes of a mesh; every one of them must call this.

    All begin with the weights of the first one. Optimisers are made afterwards, of the parameters that are then there.

    Args:
        model: what `roster.moe.replace` returned, or a loaded folder of one.
        how: see above.
        mesh: of one dimension; by default all processes of this run.

    Returns:
        The same object. Of "copies" the caller wraps it in DistributedDataParallel, as transformers' Trainer does.

    Raises:
        RosterError: no processes, a model without routed blocks, or experts that do not divide among the processes.
    """
    if not distributed.is_initialized():
        raise RosterError(
            "a model is spread over the processes of torch.distributed, of which there are none: start them with "
            "torchrun, and call torch.distributed.init_process_group()"
        )
    blocks = routed_blocks(model)
    if not blocks:
        raise RosterError("this model has no routed blocks to spread")
    if mesh is None:
        mesh = init_device_mesh(model.device.type, (distributed.get_world_size(),))
    if mesh.ndim != 1:
        raise RosterError(f"a model is spread along one dimension of processes, not {mesh.ndim}")
    number = next((name for name, p in model.named_parameters() if not p.dim()), None)
    if number is not None and how != "copies":
        raise RosterError(f"parameter {number!r} is a single number, which FSDP2 does not shard: use 'copies'")
    stacks = list(_stacks(blocks, mesh.size())) if how == "experts" else []
    _begin_alike(model, mesh)
    model.roster.processes = mesh.get_group()
    if how == "copies":
        return model
    whole = set()
    for module, name in stacks:
        old = module.get_parameter(name)
        new = nn.Parameter(distribute_tensor(old.detach(), mesh, [Shard(0)]), requires_grad=old.requires_grad)
        module.register_parameter(name, new)
        whole.add(new)
    for _, layer in blocks_of(model):
        for part in (*_of_another_type(layer, whole), layer):
            fully_shard(part, mesh=mesh, ignored_params=whole)
    fully_shard(model, mesh=mesh, ignored_params=whole)
    return model


def _stacks(blocks: dict[str, nn.Module], processes: int) -> Iterator[tuple[nn.Module, str]]:
    """(module, name of its parameter) of every stack of whole experts."""
    found = False
    for name, block in blocks.items():
        for module in block.modules():
            if not isinstance(module, FeedForwardExperts) or module.num_experts == 1:
                continue
            own = {id(parameter): key for key, parameter in module.named_parameters(recurse=False)}
            matrices = module.weights.matrices
            if module.weights.widths or {id(each) for each in matrices} != own.keys():
                raise RosterError(
                    f"the experts of {name!r} ({type(module).__name__}) are no stacks of whole experts of one width, "
                    "which is what can lie on different processes: spread this model as 'shards'"
                )
            if module.num_experts % processes:
                raise RosterError(
                    f"the {module.num_experts} experts of {name!r} do not divide among {processes} processes: take a "
                    "number of processes that divides them, or spread this model as 'shards'"
                )
            found = True
            yield from ((module, key) for key in own.values())
    if not found:
        raise RosterError("this model has no stacks of experts that can lie on different processes: use 'shards'")


def _begin_alike(model: nn.Module, mesh: DeviceMesh) -> None:
    first = distributed.get_global_rank(mesh.get_group(), 0)
    for tensor in (*model.parameters(), *model.buffers()):
        distributed.broadcast(tensor.data, first, group=mesh.get_group())


def _of_another_type(layer: nn.Module, whole: set[nn.Parameter]) -> Iterator[nn.Module]:
    """Routers that stay in float32 beside half precision: FSDP2 gathers tensors of one type together."""
    others = {p.dtype for p in layer.parameters() if p not in whole}
    if len(others) > 1:
        yield from (module for module in layer.modules() if isinstance(module, Router))
