"""Attaching a library of adapters to a base model under a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from roster.errors import RosterError
from roster.experts import LowRankExperts
from roster.library import Library
from roster.library.fits import linear_size
from roster.mixture.mixing import Mixing, Site, Surroundings
from roster.mixture.model import Mixture, routed_class
from roster.mixture.siblings import find_siblings
from roster.mixture.site import CHILD, BlockRouter, RoutedLinear
from roster.router import Router
from roster.select import Present


def attach(
    model: nn.Module,
    library: Library,
    mixing: Mixing,
    *,
    recipe: str = "",
    options: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    tasks: Sequence[str] | None = None,
    prepare: bool = True,
) -> Any:
    """Turns a transformers model, in place, into one that routes among the library's experts.

    Args:
        model: any causal LM or encoder whose targeted layers are `nn.Linear`, GPT-2's `Conv1D` or quantised ones.
        library: the experts; every one is checked against the model first.
        mixing: the composition.
        recipe, options: the method's name and arguments, kept for saving.
        tokenizer: for recipes that read the cards' example prompts.
        tasks: the known tasks; by default what the recipe reads off the library.
        prepare: False leaves the routers' buffers to be loaded from a folder.

    Returns:
        The same object, now an instance of `RoutedModel` too.

    Raises:
        RosterError: when something is attached already, or an adapter does not fit.
    """
    if hasattr(model, CHILD):
        raise RosterError("experts are already attached to this model: load the base anew")
    library.check(model)
    output_layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if tasks is None:
        tasks = mixing.tasks(library) if mixing.tasks is not None else ()
    sites = linear_sites(model, library, tuple(tasks))
    for site in sites:
        if output_layer is not None and model.get_submodule(site.name) is output_layer:
            raise RosterError(
                f"an adapter targets the output layer {site.name!r}, which sees only the positions whose logits are "
                "wanted; roster cannot route there: train the adapters without it"
            )
    mixture = Mixture(mixing, library.names, tasks, recipe, options or {})
    surroundings = Surroundings(model, library, tokenizer) if prepare else None
    # Everything is made before anything is attached: recipes prepare on the plain base, and when one of them raises, a
    # plain base is what remains.
    _fill_whole(model, sites, mixing, mixture, surroundings)
    blocks = _block_routers(model, sites, mixing, mixture, surroundings) if mixing.at == "block" else {}
    linears = {site.name: _routed_linear(model, site, mixing, mixture, surroundings) for site in sites}
    for name, block_router in blocks.items():
        model.get_submodule(name).add_module(CHILD, block_router)
        model.get_submodule(name).register_forward_pre_hook(block_router.before, with_kwargs=True)
    find_siblings(list(linears.items()))
    for name, routed_linear in linears.items():
        model.get_submodule(name).add_module(CHILD, routed_linear)
        model.get_submodule(name).register_forward_hook(routed_linear.after)
    become(model, routed_class(type(model)), mixture)
    mixture.tokenizer = tokenizer
    keeps = mixing.experts is not None
    mixture.adapters = {name: library[name] if keeps else replace(library[name], modules={}) for name in library.names}
    for name, parameter in model.named_parameters():
        # The base never trains; what does is the recipe's word.
        if f"{CHILD}." not in name:
            parameter.requires_grad_(False)
    return model.train(model.training)  # what was added is in the mode of the rest


def linear_sites(model: nn.Module, library: Library, tasks: tuple[str, ...] = ()) -> list[Site]:
    """The base's linear layers that at least one expert updates, in the order of the model."""
    targeted = set(library.module_names)
    names = [name for name, _ in model.named_modules() if name in targeted]
    sites = []
    for index, name in enumerate(names):
        width, out_features = linear_size(model.get_submodule(name)) or (0, 0)
        updates = tuple(library[each].modules.get(name) for each in library.names)
        sites.append(Site(name, index, width, out_features, tuple(library.names), updates, len(names), tasks))
    return sites


def block_of(name: str) -> str:
    """The block that a linear layer belongs to: "model.layers.3.mlp.up_proj" -> "model.layers.3"."""
    match = re.match(r"(.*?\.\d+)(\.|$)", name)
    return match.group(1) if match else "model"


def _routed_linear(
    model: nn.Module, site: Site, mixing: Mixing, mixture: Mixture, surroundings: Surroundings | None
) -> RoutedLinear:
    device, dtype = _placement(model.get_submodule(site.name), model)
    experts = mixing.experts(site) if mixing.experts is not None else lora_experts(site, mixing)
    router = _router(site, mixing, surroundings) if mixing.at == "linear" else None
    if router is not None:
        router.to(device=device)
    route_key = {"linear": site.name, "block": f"route/{block_of(site.name)}", "model": "route/model"}[mixing.at]
    return RoutedLinear(experts.to(device=device, dtype=dtype), router, mixture.slot, route_key)


def _block_routers(
    model: nn.Module, sites: list[Site], mixing: Mixing, mixture: Mixture, surroundings: Surroundings | None
) -> dict[str, BlockRouter]:
    names = list(dict.fromkeys(block_of(site.name) for site in sites))
    width = model.config.get_text_config().hidden_size
    made = {}
    for index, name in enumerate(names):
        site = Site(name, index, width, 0, sites[0].experts, (), len(names), sites[0].tasks)
        router = _router(site, mixing, surroundings).to(device=_device(model.get_submodule(name)))
        made[name] = BlockRouter(router, mixture.slot, f"route/{name}")
    return made


def _fill_whole(
    model: nn.Module, sites: list[Site], mixing: Mixing, mixture: Mixture, surroundings: Surroundings | None
) -> None:
    width = model.config.get_text_config().hidden_size
    whole = Site("model", 0, width, 0, sites[0].experts, (), len(sites), sites[0].tasks)
    if mixing.head is not None:
        mixture.head = mixing.head(whole)
        if surroundings is not None and mixing.prepare is not None:
            with torch.no_grad():
                mixing.prepare(mixture.head, whole, surroundings)
    if mixing.at == "model":
        mixture.router = _router(whole, mixing, surroundings)
    mixture.to(device=_device(model))


def _router(site: Site, mixing: Mixing, surroundings: Surroundings | None) -> Router:
    router = mixing.router(site)
    router.site = site.name
    if site.updates and any(update is None for update in site.updates):
        router.select = Present(router.select, torch.tensor([update is not None for update in site.updates]))
    if surroundings is not None and mixing.prepare is not None:
        with torch.no_grad():
            mixing.prepare(router, site, surroundings)
    if "router" not in mixing.trains:
        router.requires_grad_(False)
    return router


def lora_experts(site: Site, mixing: Mixing) -> LowRankExperts:
    """The default experts of a site: the library's updates."""
    factors = [None if each is None else (each.A_RD, each.B_OR, each.scale) for each in site.updates]
    return LowRankExperts(factors, mixing.average, trains="experts" in mixing.trains)


def _placement(linear: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a layer computes, and in what: not where its weights rest when they are offloaded or quantised."""
    dtype = linear.weight.dtype if linear.weight.dtype.is_floating_point else model.dtype
    return _device(linear), dtype


def _device(module: nn.Module) -> torch.device:
    """Where a module computes: offloaded weights rest elsewhere, and accelerate's hooks know where they are wanted."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", [hook]):
            if getattr(each, "execution_device", None) is not None:
                return torch.device(each.execution_device)
    return next(module.parameters()).device


def become(model: nn.Module, cls: type, mixture: Mixture) -> None:
    """Changes the model's class, in place; offloading hooks hold on to the old `forward`, so they are put on anew."""
    hook = getattr(model, "_hf_hook", None)
    if hook is not None:
        from accelerate.hooks import add_hook_to_module, remove_hook_from_module

        remove_hook_from_module(model)
    if getattr(model.__dict__.get("forward"), "__func__", None) is type(model).forward:
        # What accelerate leaves behind: the old class's forward on the object itself, where it would hide the new one.
        del model.forward
    model.__class__ = cls
    model.add_module(CHILD, mixture)
    if hook is not None:
        add_hook_to_module(model, hook)


def detach(model: Any) -> nn.Module:
    """Takes everything that `attach` added off the model again; returns it as the plain base that it was."""
    for _, module in list(model.named_modules()):
        if CHILD not in module._modules:
            continue
        child = module._modules.pop(CHILD)
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if getattr(hook, "__self__", None) is child:
                    hooks.pop(key)
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
    model.__class__ = type(model).base_class
    return model


def routed_linears(model: nn.Module) -> Iterator[tuple[str, RoutedLinear]]:
    """(name of the base's layer, its routed child) for every routed linear layer."""
    for name, module in model.named_modules():
        if isinstance(module, RoutedLinear):
            yield name.removesuffix(f".{CHILD}"), module


def routers(model: nn.Module) -> Iterator[tuple[str, Router]]:
    """(site name, router) for every place where routes are decided."""
    for module in model.modules():
        if isinstance(module, Router):
            yield module.site, module
