"""Replacing the feed-forward blocks of a transformers model by mixtures.

Shape legend: B batch rows, S tokens per row, D model width, F width of the model's own block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from roster.context import ContextSlot
from roster.errors import RosterError
from roster.moe.attention import RoutedAttention, find_attention, keep_attention
from roster.moe.blocks import find_blocks
from roster.moe.dense_start import start_dense
from roster.moe.layout import Layout, Place
from roster.moe.manifest import Replaced
from roster.moe.mixture import BlockMixture
from roster.recipes import find
from roster.routed.becoming import become
from roster.routed.mixture import Mixture
from roster.routed.model import routed_class
from roster.routed.placement import place_like
from roster.routed.running import CHILD
from roster.routed.sharded import check_whole_layers
from roster.routed.streams import Side, check_rows, check_streams, context_here, side_of
from roster.routed.trial import try_layers
from roster.router import Router


class RoutedBlock(nn.Module):
    """What takes the place of a feed-forward block: finds the running call's context and hands it on."""

    def __init__(self, block: nn.Module, slot: ContextSlot, name: str = "", side: Side = "only"):
        super().__init__()
        self.block, self.slot, self.name, self.side = block, slot, name, side

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        context = context_here(self.slot, self.side)
        check_rows(hidden_BSD, context, self.name)
        y_BSD: Tensor = self.block(hidden_BSD, context)
        return y_BSD


def replace(
    model: PreTrainedModel,
    recipe: str,
    *,
    layers: Iterable[int] | None = None,
    options: Mapping[str, Any] | None = None,
    hidden: int | None = None,
    tasks: Sequence[str] = (),
    start: Literal["fresh", "dense"] = "fresh",
) -> Any:
    """Turns feed-forward blocks of a model, in place, into mixtures. Dropout inside a replaced block goes with it.

    Args:
        model: a transformers model.
        recipe: a recipe's name of kind "moe"; see `roster methods`.
        layers: which blocks, counted from 0; by default all.
        options: the recipe's options.
        hidden: hidden units that one token may use; by default those of the model's own block.
        tasks: names of the tasks, for recipes that route by task.
        start: how the experts begin: "fresh", at random; or "dense", as runs of the hidden units of the block that they
            replace (copies, where they are as wide); see `roster.moe.dense_start` for what then equals what.

    Returns:
        The same object, now an instance of `RoutedModel` too.

    Raises:
        RosterError: an unknown recipe, option or architecture, or values that do not fit, before anything is changed.
    """
    check_whole_layers(model)
    record = find(recipe)
    if record.kind != "moe":
        raise RosterError(f"recipe {recipe!r} does not make feed-forward mixtures (it is of kind {record.kind!r})")
    if hasattr(model, CHILD):
        raise RosterError("this model routes already: load it anew")
    if start not in ("fresh", "dense"):
        raise RosterError(f"start must be 'fresh' or 'dense', not {start!r}")
    layout: Layout = record(options)
    if layout.routes_by_task and not tasks:
        raise RosterError(f"recipe {recipe!r} routes by task: name the tasks with tasks=")
    layers = None if layers is None else sorted(set(layers))
    blocks = {"feed-forward": find_blocks, "attention": find_attention}[layout.at](model, layers)
    check_streams(model, layout, recipe, "feed-forward")
    try_layers(model, blocks)
    mixture = BlockMixture(layout, (), tasks, recipe, options or {})
    mixture.made = Replaced(recipe=recipe, options=dict(options or {}), layers=layers, hidden=hidden, tasks=list(tasks))
    made = {}
    for index, (name, kind) in enumerate(blocks.items()):
        place = Place(
            name=name,
            index=index,
            count=len(blocks),
            width=kind.width,
            hidden=hidden or kind.hidden,
            make_experts=kind.make_experts,
            vocab_size=model.config.get_text_config().vocab_size,
            tasks=tuple(tasks),
            recipe=recipe,
        )
        block = layout.block(place)
        if start == "dense":
            start_dense(block, kind.matrices, recipe=recipe, site=name)
        for each in block.modules():
            if isinstance(each, Router):
                each.site = name if each.site == "router" else f"{name}.{each.site}"
        place_like(block, model.get_submodule(name))
        made[name] = _routed(model, name, block, layout, mixture)
    for name, block in made.items():
        model.set_submodule(name, block)
        for emptied in blocks[name].emptied:
            model.set_submodule(emptied, nn.Identity())
    if layout.reads_attention:
        keep_attention(model, mixture.slot)
    base: type = type(model)
    become(model, routed_class(base), mixture)
    mixture.experts = tuple(str(index) for index in range(_most_experts(made)))
    _set_trained(model, layout)
    return model.train(model.training)


def _routed(model: nn.Module, name: str, block: nn.Module, layout: Layout, mixture: Mixture) -> nn.Module:
    if layout.at == "attention":
        # Of a layout at attention, `block` makes a router.
        return RoutedAttention(model.get_submodule(name), cast(Router, block), mixture.slot)
    return RoutedBlock(block, mixture.slot, name, side_of(model, name))


def routed_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The mixtures of a model by the names of the blocks that they replaced."""
    kinds = (RoutedBlock, RoutedAttention)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _most_experts(blocks: Mapping[str, nn.Module]) -> int:
    counts = [getattr(m, "num_experts", 0) for block in blocks.values() for m in block.modules()]
    return max(counts, default=0)


def _set_trained(model: nn.Module, layout: Layout) -> None:
    ours = {id(p): "experts" for block in routed_blocks(model).values() for p in block.parameters()}
    for block in routed_blocks(model).values():
        for module in block.modules():
            if isinstance(module, Router):
                ours.update({id(p): "router" for p in module.parameters()})
    for parameter in model.parameters():
        if ours.get(id(parameter), "base") not in layout.trains:
            parameter.requires_grad_(False)
