"""Taking one task's experts out of a mixture that routes by task: a smaller model that answers as the full one does.

Where all tokens of a task have the same experts, the others are dead weight for it. `extract_task` keeps the chosen
ones; gated blocks are merged into one dense block, exactly: hidden units of several experts side by side, the weights
of the route in the last matrix. `as_plain` then gives a model of the base's own class, which every engine loads.

Shape legend: E experts, K of them chosen, D model width, F expert width.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.experts import SwiGLU
from roster.moe.dense import Dense
from roster.moe.layer import MoE
from roster.moe.replacing import routed_blocks
from roster.router import Router
from roster.score import Constant
from roster.select import All


def extract_task(model: Any, task: str) -> Any:
    """The model's sub-network for one task; `model` stays as it is.

    Args:
        model: what `roster.moe.replace` returned for a recipe that routes by task and by nothing else.
        task: its name, one of `model.roster.tasks`.

    Returns:
        A routed model that needs no task ids; its outputs equal the full model's for rows of this task.

    Raises:
        RosterError: an unknown task, a router that also reads tokens, or experts that cannot be taken apart.
    """
    if not getattr(getattr(model, "roster", None), "plan", None) or not model.roster.plan.routes_by_task:
        raise RosterError("this model does not route by task: there is no sub-network of a task in it")
    index = int(model.task_ids([task])[0])
    mixtures = [each for block in routed_blocks(model).values() for each in block.modules() if isinstance(each, MoE)]
    for each in mixtures:
        if getattr(each.router.score, "reads_tokens", True):
            raise RosterError(
                f"recipe {model.roster.recipe!r}: {type(each.router.score).__name__} at {each.router.site!r} reads the "
                "tokens too, so every expert may be needed for every task"
            )
    memo = {id(each): sub_block(each, index) for each in mixtures}
    small = copy.deepcopy(model, memo)
    kept = max(getattr(module, "num_experts", 0) for module in small.modules())
    mixture = small.roster
    mixture.plan = dataclasses.replace(mixture.plan, tasks=None, kinds=())
    mixture.made, mixture.unsaved = None, f"it was cut to the task {task!r} (`as_plain` may give a plain model)"
    mixture.tasks, mixture.experts, mixture.recorder = (), tuple(str(each) for each in range(kept)), None
    return small


@torch.no_grad()
def sub_block(mixture: MoE, task: int) -> nn.Module:
    """One block's part for one task: a dense block where the experts can be merged, else a smaller mixture.

    Args:
        mixture: whose router reads nothing but the task.
        task: its id.
    """
    gate_K, chosen_K = _choice(mixture.router, task)
    if type(mixture.experts) is SwiGLU:
        return Dense(_merged(mixture.experts, gate_K, chosen_K))
    experts = _subset(mixture.experts, chosen_K)
    return MoE(Router(Constant(gate_K), All("none"), site=mixture.router.site), experts)


def as_plain(model: Any) -> Any:
    """A dense model of the base's own class with the same outputs, from one whose mixtures are all dense blocks.

    Raises:
        RosterError: a block is not a dense gated one, or blocks differ in width.
    """
    blocks = {name: block.block for name, block in routed_blocks(model).items()}
    dense = {n: b.experts for n, b in blocks.items() if isinstance(b, Dense) and type(b.experts) is SwiGLU}
    widths = {experts.down_EFD.shape[1] for experts in dense.values()}
    untouched = len(blocks) != model.config.get_text_config().num_hidden_layers
    if len(dense) < len(blocks) or len(widths) != 1 or untouched:
        raise RosterError("only a model whose blocks are all dense, gated and of one width is one of its base's class")
    config = copy.deepcopy(model.config)
    config.get_text_config().intermediate_size = widths.pop()
    state = {k: v for k, v in model.state_dict().items() if not any(k.startswith(f"{name}.") for name in blocks)}
    for name, experts in dense.items():
        for part in ("gate", "up", "down"):
            weight = getattr(experts, f"{part}_E{'FD' if part == 'down' else 'DF'}")
            state[f"{name}.{part}_proj.weight"] = weight[0].T.contiguous()
    plain = type(model).base_class(config).to(device=model.device, dtype=model.dtype)
    plain.load_state_dict(state)
    plain.generation_config = copy.deepcopy(model.generation_config)
    return plain.train(model.training)


def _choice(router: Router, task: int) -> tuple[Tensor, Tensor]:
    """(weights, experts) of a task at evaluation, both [K]."""
    training = router.training
    device = next(chain(router.parameters(), router.buffers())).device
    router.eval()
    try:
        route = router(torch.empty(1, 0, device=device), Context(1, 1, task_ids_B=torch.tensor([task], device=device)))
    finally:
        router.train(training)
    chosen_K = route.chosen()[0].nonzero()[:, 0]
    return route.dense()[0, chosen_K], chosen_K


def _merged(experts: SwiGLU, gate_K: Tensor, chosen_K: Tensor) -> SwiGLU:
    """One gated block that is the weighted sum of the chosen ones."""
    K, D, F = len(chosen_K), experts.gate_EDF.shape[1], experts.gate_EDF.shape[2]
    one = {
        "gate_EDF": experts.gate_EDF[chosen_K].transpose(0, 1).reshape(1, D, K * F),
        "up_EDF": experts.up_EDF[chosen_K].transpose(0, 1).reshape(1, D, K * F),
        "down_EFD": (experts.down_EFD[chosen_K] * gate_K[:, None, None].to(experts.down_EFD)).reshape(1, K * F, D),
    }
    memo = {id(getattr(experts, name)): nn.Parameter(tensor.contiguous()) for name, tensor in one.items()}
    merged = copy.deepcopy(experts, memo)
    merged.num_experts = 1
    return merged


def _subset(experts: nn.Module, chosen_K: Tensor) -> nn.Module:
    """The same experts without those that are not chosen; names of tensors say which axis they are on."""
    memo: dict[int, Any] = {}
    for name, tensor in experts.named_parameters():
        axes = re.search(r"_([A-Z]+)$", name)
        axis = axes.group(1).find("E") if axes else -1
        if axis < 0 or tensor.shape[axis] != experts.num_experts:
            raise RosterError(f"{type(experts).__name__} cannot be taken apart: {name!r} belongs to several experts")
        memo[id(tensor)] = nn.Parameter(tensor.index_select(axis, chosen_K).clone())
    smaller = copy.deepcopy(experts, memo)
    smaller.num_experts = len(chosen_K)  # type: ignore[assignment]  # modules type what they hold as tensor or module
    return smaller
