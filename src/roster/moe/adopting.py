"""Adopting an existing mixture: its experts are served by roster, so that it can be traced and routed otherwise.

Found by what they are made of, not by the model's name: every block whose experts transformers itself can dispatch.

Shape legend: E experts, D model width, F expert width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from roster.context import Context
from roster.errors import RosterError
from roster.moe.adopted import AdoptedSite, adopted_class
from roster.moe.gates import gate_of, router_of
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.moe.manifest import Adopted
from roster.moe.mixture import BlockMixture
from roster.moe.own_experts import Borrowed, held_by, reader_of
from roster.recipes import find
from roster.routed.becoming import become
from roster.routed.model import routed_class
from roster.routed.placement import place_like
from roster.routed.running import CHILD
from roster.routed.sharded import check_whole_layers
from roster.routed.trial import try_layers
from roster.router import Router

OWN = "own"


@dataclass(frozen=True)
class AdoptedPlace(Place):
    """A block whose experts exist already.

    Attributes:
        block: the model's module around the experts.
        num_experts: E.
    """

    block: nn.Module = field(kw_only=True)
    num_experts: int = field(kw_only=True)

    @property
    def own(self) -> Router:
        """A copy of the model's own router as parts, to change one of them.

        Raises:
            RosterError: roster has no parts that decide as it does.
        """
        return router_of(self.block, self.name)

    def share(self, parts: int) -> int:
        """F: the experts have their width already."""
        return self.hidden


def adopt(
    model: PreTrainedModel,
    router: str | Callable[[AdoptedPlace], Router] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    tasks: Sequence[str] = (),
) -> Any:
    """Makes a mixture that transformers knows a routed model, in place; its experts' tensors keep place and name.

    Args:
        model: a transformers model with mixture-of-experts blocks.
        router: what decides from now on. None: the model's own router, so that outputs stay what they were. A recipe's
            name of kind "moe": its router, fresh, over the model's experts; its options `num_experts` and `k`
            (where it has them) are the model's unless given. Or a function that makes a router for each place, for
            example `lambda place: Router(place.own.score, TopP(0.5))`.
        options: the recipe's options.
        tasks: names of the tasks, for recipes that route by task.

    Returns:
        The same object, now an instance of `RoutedModel` too. With another router the model's own one is frozen, idle,
        and out of the loss (`config.output_router_logits` is set to False).

    Raises:
        RosterError: no block that roster can read, one that reads the sequence before the batch, an unknown recipe, or
            a router for another number of experts, before anything is changed.
    """
    check_whole_layers(model)
    if hasattr(model, CHILD):
        raise RosterError("this model routes already: load it anew")
    found = find_experts(model)
    try_layers(model, found)
    layout, recipe, options = _layout(router, options, model, found, tasks)
    mixture = BlockMixture(layout, (), tasks, recipe, options)
    mixture.made = Adopted(router=router, options=options, tasks=list(tasks)) if not callable(router) else None
    mixture.unsaved = "its router was made by a function, which a folder cannot name"
    made = {}
    for index, (name, block) in enumerate(found.items()):
        new = None if router is None else _other_router(model, index, found, layout, tasks, recipe)
        _, reader = held_by(block)
        made[name] = AdoptedSite(reader, mixture.slot, name, new, _side(model, name))
    for name, site in made.items():
        experts, _ = held_by(found[name])
        experts.add_module(CHILD, site)
        kind: type = type(experts)
        experts.__class__ = adopted_class(kind)
        if router is not None and (gate := gate_of(found[name])) is not None:
            gate.requires_grad_(False)
    if router is not None and getattr(model.config, "output_router_logits", False):
        model.config.output_router_logits = False
    base: type = type(model)
    become(model, routed_class(base), mixture)
    most = max(_count(block) for block in found.values())
    mixture.experts = tuple(str(index) for index in range(most))
    _set_trained(model, layout)
    return model.train(model.training)


def find_experts(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks around experts that roster can read, by name, in the order of the layers.

    Raises:
        RosterError: there is none.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "experts", None), nn.Module) and reader_of(module.experts) is not None
    }
    if not found:
        raise RosterError(
            f"no mixture that roster can adopt in {type(model).__name__}: looked for modules with a child `experts` "
            "that holds stacked matrices (gate_up_proj or up_proj, and down_proj) as transformers' own dispatch reads "
            "them, or modules expert_0, expert_1, ...; `roster.moe.replace` makes mixtures of dense models"
        )
    return found


def _side(model: nn.Module, name: str) -> str:
    if not getattr(model.config, "is_encoder_decoder", False):
        return "only"
    return "decoder" if "decoder" in name.split(".") else "encoder"


def adopted_sites(model: nn.Module) -> dict[str, AdoptedSite]:
    """The adopted blocks of a model by name."""
    return {module.name: module for module in model.modules() if isinstance(module, AdoptedSite)}


def _count(block: nn.Module) -> int:
    """E of a block."""
    experts, reader = held_by(block)
    return reader.sizes(experts)[0]


def _layout(
    router: Any,
    options: Mapping[str, Any] | None,
    model: PreTrainedModel,
    found: Mapping[str, nn.Module],
    tasks: Sequence[str],
) -> tuple[Layout, str, dict[str, Any]]:
    """(layout, name of the recipe, its options)"""
    if not isinstance(router, str):
        if options:
            raise RosterError("options= are a recipe's: give router= its name")
        return Layout(lambda place: _mixed(router, cast(AdoptedPlace, place))), OWN, {}  # `adopt` makes no others
    record = find(router)
    if record.kind != "moe":
        raise RosterError(f"recipe {router!r} does not route feed-forward experts (it is of kind {record.kind!r})")
    block = next(iter(found.values()))
    own = {"num_experts": _count(block), "k": _own_k(model, block)}
    known = record.options()
    options = {name: value for name, value in own.items() if name in known and value is not None} | dict(options or {})
    layout = record(options)
    if layout.at != "feed-forward":
        raise RosterError(f"recipe {router!r} routes attention blocks, not experts")
    if layout.routes_by_task and not tasks:
        raise RosterError(f"recipe {router!r} routes by task: name the tasks with tasks=")
    return layout, router, options


def _own_k(model: PreTrainedModel, block: nn.Module) -> int | None:
    """How many experts a token visits now."""
    holders = (gate_of(block), block, model.config.get_text_config())
    names = ("top_k", "num_experts_per_tok", "moe_topk")
    return next((getattr(h, n) for h in holders for n in names if isinstance(getattr(h, n, None), int)), None)


def _mixed(router: Callable[[AdoptedPlace], Router], place: AdoptedPlace) -> MoE:
    made = router(place)
    if not isinstance(made, Router):
        raise RosterError(f"router= must return a roster.Router for each place, not a {type(made).__name__}")
    return MoE(made, place.make_experts(place.num_experts, 0))


def _other_router(
    model: PreTrainedModel,
    index: int,
    found: Mapping[str, nn.Module],
    layout: Layout,
    tasks: Sequence[str],
    recipe: str,
) -> nn.Module:
    name, block = list(found.items())[index]
    experts, reader = held_by(block)
    num_experts, width, hidden = reader.sizes(experts)

    def borrow(count: int, each: int) -> Borrowed:
        if count != num_experts:
            raise RosterError(
                f"recipe {recipe!r} wants {count} experts at {name!r}, where the model has {num_experts}; a recipe "
                "that adds experts of its own, or fixes their number, cannot route those of this model"
            )
        return Borrowed(experts, reader)

    text = model.config.get_text_config()
    place = AdoptedPlace(
        name=name,
        index=index,
        count=len(found),
        width=width,
        hidden=hidden,
        make_experts=borrow,
        vocab_size=text.vocab_size,
        tasks=tuple(tasks),
        recipe=recipe,
        block=block,
        num_experts=num_experts,
    )
    new = layout.block(place)
    place_like(new, block)
    if not any(isinstance(each, Borrowed) for each in new.modules()):
        raise RosterError(f"recipe {recipe!r} makes no router over the experts of {name!r}: it cannot route this model")
    for each in new.modules():
        if isinstance(each, Router):
            _check_size(each, place, len(tasks))
            each.site = name if each.site == "router" else f"{name}.{each.site}"
    return new


def _check_size(router: Router, place: AdoptedPlace, tasks: int) -> None:
    """A router of a function may be for any number of experts; it shows in its first decision."""
    if place.recipe != OWN:
        return
    weight = next(place.block.parameters())
    x_TD = torch.zeros(2, place.width, device=weight.device, dtype=weight.dtype)
    ids = torch.zeros(1, 2, dtype=torch.long, device=weight.device)
    training = router.training
    router.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        route = router(x_TD, Context(1, 2, input_ids_BS=ids, task_ids_B=torch.zeros_like(ids[:, 0])))
    router.train(training)
    if route.num_experts != place.num_experts:
        raise RosterError(
            f"the router for {place.name!r} chooses among {route.num_experts} experts; the model has "
            f"{place.num_experts} there"
        )


def _set_trained(model: nn.Module, layout: Layout) -> None:
    if "base" in layout.trains:
        return
    # What a composition brought along trains, but for what it has frozen itself; the experts are the model's own.
    brought = [p for site in adopted_sites(model).values() for p in site.parameters() if p.requires_grad]
    ours = {id(p) for m in model.modules() if isinstance(m, Router) for p in m.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in brought:
        parameter.requires_grad_(("router" if id(parameter) in ours else "experts") in layout.trains)
