"""Merging the experts of a mixture with a constant route into one plain PEFT adapter, or into the base itself.

Shape legend: E experts, r rank of one expert, R all ranks together, I in_features, O out_features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from roster.adapters.site import routed_linears
from roster.context import Context
from roster.errors import RosterError
from roster.experts import LowRankExperts, RescaledExperts, StoredExperts
from roster.library import LowRank, make_adapter, write_adapter
from roster.library.soft_prompt import check_has_weights
from roster.route import AnyRoute
from roster.routed.becoming import detach


@dataclass(frozen=True)
class Merged:
    """One plain update per layer.

    Attributes:
        adapter: the merged adapter.
        error: relative Frobenius error per layer, ||merged - exact|| / ||exact||; all zero when exact.
        exact: whether no rank was cut.
    """

    adapter: Any
    error: dict[str, float]
    exact: bool
    model: nn.Module

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the adapter in PEFT's format.

        Args:
            folder: where to; its name becomes the adapter's.
            overwrite: replace an adapter that is there.
        """
        folder = Path(folder)
        adapter = make_adapter(folder.name, self.adapter.modules, self.adapter.card.base or "")
        return write_adapter(folder.parent, adapter, overwrite=overwrite)

    def plain_model(self) -> nn.Module:
        """A copy of the base with the merged update added to its weights, and no trace of roster."""
        model = copy.deepcopy(self.model)
        detach(model)
        for name, update in self.adapter.modules.items():
            linear = model.get_submodule(name)
            if not linear.weight.dtype.is_floating_point:
                raise RosterError(f"{name!r} is quantised: save the merged adapter instead of a plain model")
            delta_OI = (update.B_OR.double() @ update.A_RD.double() * update.scale).to(linear.weight)
            linear.weight.data += delta_OI if hasattr(linear, "in_features") else delta_OI.T
        return model


def merge_experts(model: Any, *, task: str | None = None, rank: int | None = None) -> Merged:
    """Merges a mixture whose route is the same for every token (of a task).

    By default exact: the experts' ranks are concatenated, those with weight zero left out. With `rank`, the nearest
    update of that rank by a truncated SVD, with the error that this costs.

    Args:
        model: a routed model.
        task: which task to merge for, when the recipe routes by task.
        rank: cut every layer's update to this rank.

    Raises:
        RosterError: the recipe looks at the tokens, or a task is missing or unknown.
    """
    mixture = model.roster
    constant = mixture.plan.constant
    if constant is None:
        raise RosterError(
            f"recipe {mixture.recipe!r} routes by the tokens, so no single adapter does the same; "
            "merge 'uniform', or a recipe that routes by task"
        )
    if constant == "per task" and task is None:
        raise RosterError(f"recipe {mixture.recipe!r} routes by task: say for which, one of {list(mixture.tasks)}")
    if rank is not None and rank < 1:
        raise RosterError(f"the rank to merge to must be at least 1, not {rank}")
    task_ids = None if task is None else model.task_ids([task]).cpu()
    merged = merge_routes(model, lambda: Context(1, 1, task_ids_B=task_ids), rank)
    if merged is None:
        raise RosterError(f"task {task!r} is served by the base alone: there is nothing to merge")
    return merged


def merge_routes(model: Any, call: Callable[[], Context], rank: int | None = None) -> Merged | None:
    """The adapter that does what the experts do in a call of one token whose routers read no tokens.

    Args:
        model: a routed model.
        call: makes the call's context, anew for every layer.
        rank: cut every layer's update to this rank.

    Returns:
        None where the base alone serves such a call.
    """
    for each in model.roster.adapters.values():
        check_has_weights(each, "merging experts into one adapter")
    modules, error = {}, {}
    for name, child in routed_linears(model):
        update = _merge_layer(name, child.experts, _route(model, child, call()))
        if update is None:
            continue
        modules[name], error[name] = (update, 0.0) if rank is None else truncate(update, rank)
    if not modules:
        return None
    adapter = make_adapter("merged", modules, model.roster.base_name or "")
    return Merged(adapter, error, rank is None, model)


def truncate(update: LowRank, rank: int) -> tuple[LowRank, float]:
    """The nearest update of at most this rank, and its relative Frobenius error; never forms the O x I product."""
    Q_O, R_O = torch.linalg.qr(update.B_OR.double() * update.scale)
    Q_I, R_I = torch.linalg.qr(update.A_RD.double().T)
    left, size, right = torch.linalg.svd(R_O @ R_I.T)
    kept = min(rank, len(size))
    total = size.square().sum()
    error = (size[kept:].square().sum() / total).sqrt().item() if total > 0 else 0.0
    root = size[:kept].sqrt()
    A_RI = (root[:, None] * right[:kept]) @ Q_I.T
    B_OR = Q_O @ (left[:, :kept] * root)
    return LowRank(A_RI.to(update.A_RD.dtype), B_OR.to(update.B_OR.dtype), 1.0), error


def _route(model: Any, child: Any, context: Context) -> AnyRoute:
    """The route that every token of such a call gets at this layer, asked for with one token."""
    router = child.router if child.router is not None else model.roster.router
    training = router.training
    router.eval()
    try:
        with torch.no_grad():
            route: AnyRoute = router(torch.empty(1, 0, device=model.device), context)
    finally:
        router.train(training)
    return route


@torch.no_grad()
def _merge_layer(name: str, experts: nn.Module, route: AnyRoute) -> LowRank | None:
    if isinstance(experts, RescaledExperts):
        raise RosterError(
            f"some experts of {name!r} are DoRAs or (IA)3: they rescale rows of the base, which no low rank does; "
            "one alone is the adapter itself, or `roster merge` puts a DoRA into the base"
        )
    gate_E = route.dense()[0].cpu()
    if hasattr(experts, "merged"):  # experts that are no plain sum of stored updates
        A_rI, B_Or, scale = cast(Any, experts).merged(route)
        return LowRank(A_rI.cpu(), B_Or.cpu().contiguous(), scale) if bool(gate_E.any()) else None
    if not isinstance(experts, LowRankExperts | StoredExperts):
        raise RosterError(f"the experts of {name!r} are not LoRA updates and cannot be merged into an adapter")
    on_duty = [(g, f) for e, g in enumerate(gate_E.tolist()) if g != 0 and (f := experts.expert(e)) is not None]
    if not on_duty:
        return None
    A = [A_rI.detach().cpu() for _, (A_rI, _, _) in on_duty]
    B = [B_Or.detach().cpu() for _, (_, B_Or, _) in on_duty]
    if isinstance(experts, LowRankExperts) and experts.average == "factors":
        A_rI = sum(g * each for (g, _), each in zip(on_duty, A, strict=True))
        B_Or = sum(g * scale * each for (g, (_, _, scale)), each in zip(on_duty, B, strict=True))
        return LowRank(A_rI, B_Or, 1.0)
    B_OR = torch.cat([g * scale * each for (g, (_, _, scale)), each in zip(on_duty, B, strict=True)], dim=1)
    return LowRank(torch.cat(A), B_OR, 1.0)
