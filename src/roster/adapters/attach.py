"""Attaching a library of adapters to a base model under a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.adapters.mixture import AdapterMixture
from roster.adapters.siblings import find_siblings
from roster.adapters.site import BlockRouter, RoutedLinear
from roster.errors import RosterError
from roster.experts import LowRankExperts, RescaledExperts, StoredExperts, VirtualTokens
from roster.library import Adapter, Library
from roster.library.adapter import Magnitude, Rescaled, Stored, Vector
from roster.library.dora import has_magnitudes, layer_of, on_base
from roster.library.fits import linear_size
from roster.library.templates import check_templates
from roster.prompts import Rendering
from roster.routed.becoming import become
from roster.routed.model import routed_class
from roster.routed.placement import computes_in, device_of, experts_in
from roster.routed.running import CHILD
from roster.routed.sharded import check_whole_layers
from roster.routed.streams import check_streams, side_of
from roster.routed.taps import Tap, blocks_of
from roster.routed.trial import try_layers
from roster.router import Router
from roster.select import Present


def attach(
    model: PreTrainedModel,
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
        tokenizer: of the base, for recipes that read the cards' example prompts; or a `Rendering` of it.
        tasks: the known tasks; by default what the recipe reads off the library.
        prepare: False leaves the routers' buffers to be loaded from a folder.

    Returns:
        The same object, now an instance of `RoutedModel` too.

    Raises:
        RosterError: when something is attached already, or an adapter does not fit.
    """
    if hasattr(model, CHILD):
        raise RosterError("experts are already attached to this model: load the base anew")
    check_whole_layers(model)
    if not mixing.causal and model.can_generate():
        raise RosterError(
            f"recipe {recipe!r} lets a token see those after it, and {type(model).__name__} writes its text one token "
            "after the other: it is for encoders"
        )
    library.check(model)
    rendering = None if tokenizer is None else Rendering.of(tokenizer)
    if rendering is not None:
        check_templates(library, rendering)
    output_layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if tasks is None:
        tasks = mixing.tasks(library) if callable(mixing.tasks) else ()
    _check_kinds(library, mixing, recipe)
    placed = on_base(library, model)
    sites = linear_sites(model, placed, tuple(tasks))
    for site in sites:
        if output_layer is not None and model.get_submodule(site.name) is output_layer:
            raise RosterError(
                f"an adapter targets the output layer {site.name!r}, which sees only the positions whose logits are "
                "wanted; roster cannot route there: train the adapters without it"
            )
    check_streams(model, mixing, recipe, mixing.at)
    try_layers(model, [site.name for site in sites], updated=True)
    mixture = AdapterMixture(mixing, library.names, tasks, recipe, options or {})
    prompts = [library[name].prompt_VD for name in library.names]
    if any(each is not None for each in prompts):
        mixture.virtual = VirtualTokens(prompts)
    surroundings = _surroundings(model, placed, rendering) if prepare else None
    # Everything is made before anything is attached: recipes prepare on the plain base, and when one of them raises, a
    # plain base is what remains.
    _fill_whole(model, sites, mixing, mixture, surroundings)
    blocks = _block_routers(model, sites, mixing, mixture, surroundings) if mixing.at == "block" else {}
    linears = {site.name: _routed_linear(model, site, mixing, mixture, surroundings) for site in sites}
    for name, block_router in blocks.items():
        model.get_submodule(name).add_module(CHILD, block_router)
        model.get_submodule(name).register_forward_pre_hook(block_router.before, with_kwargs=True)
    for number, (_, block) in enumerate(blocks_of(model) if mixing.decides else (), 1):
        tap = Tap(mixture.wish, number)
        block.add_module(CHILD, tap)
        block.register_forward_hook(tap.after)
    for name, routed_linear in linears.items():
        routed_linear.side = side_of(model, name)
    find_siblings(list(linears.items()))
    for name, routed_linear in linears.items():
        model.get_submodule(name).add_module(CHILD, routed_linear)
        model.get_submodule(name).register_forward_hook(routed_linear.after)
    base: type = type(model)
    become(model, routed_class(base), mixture)
    if rendering is not None:
        mixture.tokenizer, mixture.template = rendering.tokenizer, rendering.template
    # Whoever holds the updates writes them; experts of another kind leave them to the library.
    keeps = not all(isinstance(each.experts, LowRankExperts) for each in linears.values())
    mixture.adapters = {name: library[name] if keeps else _without_tensors(library[name]) for name in library.names}
    for name, parameter in model.named_parameters():
        # The base never trains; what does is the recipe's word.
        if f"{CHILD}." not in name:
            parameter.requires_grad_(False)
    return model.train(model.training)  # what was added is in the mode of the rest


def _check_kinds(library: Library, mixing: Mixing, recipe: str) -> None:
    """RosterError for a recipe that does anything but add updates up, where some are DoRAs or (IA)3, and for one that
    mixes, where some are soft prompts."""
    soft = [name for name, adapter in library.items() if adapter.prompt_VD is not None]
    if soft and not mixing.one_per_prompt:
        raise RosterError(
            f"recipe {recipe!r} weighs experts, and {soft[0]!r} is a soft prompt, which a prompt has as a whole or not "
            "at all: take a recipe that gives each prompt one expert (auto, named, loraretriever with top_k=1, "
            "routerretriever), or adapters of another kind"
        )
    if soft and mixing.keeps_cache:
        raise RosterError(
            f"{soft[0]!r} is a soft prompt, which stands at the beginning of a chat: a turn that goes to another "
            "expert cannot keep the cache of those before (chat='rebuild')"
        )
    trained = "experts" in mixing.trains
    stored = any(isinstance(update, Stored) for adapter in library.values() for update in adapter.modules.values())
    if stored and (trained or mixing.experts is not None or mixing.average == "factors"):
        raise RosterError(
            f"recipe {recipe!r} makes something of its own of the experts, which takes them in memory: read the "
            "library without mapped=True"
        )
    if (trained or mixing.experts is not None or mixing.average == "factors") and has_magnitudes(library):
        why = "trains the experts" if trained else "does not add updates up"
        raise RosterError(
            f"recipe {recipe!r} {why}, and a DoRA (use_dora) or (IA)3 is another thing than a pair of factors: give it "
            "plain LoRAs"
        )


def _without_tensors(adapter: Adapter) -> Adapter:
    """An adapter whose tensors the mixture holds; of a DoRA or (IA)3 it holds what the base made of them: they stay."""
    kept = {name: each for name, each in adapter.modules.items() if isinstance(each, Magnitude | Vector)}
    return replace(adapter, modules=kept)


def _surroundings(model: nn.Module, library: Library, rendering: Rendering | None) -> Surroundings:
    if rendering is None:
        return Surroundings(model, library)
    return Surroundings(model, library, rendering.tokenizer, rendering.template)


def linear_sites(model: nn.Module, library: Library, tasks: tuple[str, ...] = ()) -> list[Site]:
    """The base's linear layers that at least one expert updates, in the order of the model."""
    targeted = set(library.module_names)
    names = [name for name, _ in model.named_modules() if name in targeted]
    sites = []
    for index, name in enumerate(names):
        width, out_features = linear_size(model.get_submodule(name)) or (0, 0)
        updates = tuple(library[each].modules.get(name) for each in library.names)
        bias_O = getattr(model.get_submodule(name), "bias", None)
        sites.append(
            Site(name, index, width, out_features, tuple(library.names), updates, len(names), tasks, bias_O=bias_O)
        )
    return sites


def block_of(name: str) -> str:
    """The block that a linear layer belongs to: "model.layers.3.mlp.up_proj" -> "model.layers.3"."""
    match = re.match(r"(.*?\.\d+)(\.|$)", name)
    return match.group(1) if match else "model"


def _routed_linear(
    model: nn.Module, site: Site, mixing: Mixing, mixture: AdapterMixture, surroundings: Surroundings | None
) -> RoutedLinear:
    device, dtype = computes_in(model.get_submodule(site.name), model)
    linear = model.get_submodule(site.name)
    experts = mixing.experts(site) if mixing.experts is not None else lora_experts(site, mixing, linear)
    router = _router(site, mixing, surroundings) if mixing.at == "linear" else None
    if router is not None:
        router.to(device=device)
    route_key = {"linear": site.name, "block": f"route/{block_of(site.name)}", "model": "route/model"}[mixing.at]
    stored = {update.A_RD.dtype for update in site.updates if update is not None}
    return RoutedLinear(
        experts.to(device=device, dtype=experts_in(dtype, stored)), router, mixture.slot, route_key, site.name
    )


def _block_routers(
    model: PreTrainedModel,
    sites: list[Site],
    mixing: Mixing,
    mixture: AdapterMixture,
    surroundings: Surroundings | None,
) -> dict[str, BlockRouter]:
    names = list(dict.fromkeys(block_of(site.name) for site in sites))
    width = model.config.get_text_config().hidden_size
    made = {}
    for index, name in enumerate(names):
        site = Site(name, index, width, 0, sites[0].experts, (), len(names), sites[0].tasks)
        router = _router(site, mixing, surroundings).to(device=device_of(model.get_submodule(name)))
        made[name] = BlockRouter(router, mixture.slot, f"route/{name}")
    return made


def _fill_whole(
    model: PreTrainedModel,
    sites: list[Site],
    mixing: Mixing,
    mixture: AdapterMixture,
    surroundings: Surroundings | None,
) -> None:
    config = model.config.get_text_config()
    depth = getattr(config, "num_hidden_layers", 0)
    whole = Site("model", 0, config.hidden_size, 0, mixture.experts, (), len(sites), mixture.tasks, depth)
    if mixing.head is not None:
        mixture.head = mixing.head(whole)
        if surroundings is not None and mixing.prepare is not None:
            with torch.no_grad():
                mixing.prepare(mixture.head, whole, surroundings)
    if mixing.at == "model":
        mixture.router = _router(whole, mixing, surroundings)
    mixture.to(device=device_of(model))


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


def lora_experts(site: Site, mixing: Mixing, linear: nn.Module | None = None) -> LowRankExperts | StoredExperts:
    """The default experts of a site: the library's updates; `linear` is the base's layer."""
    rescaled = {e: each for e, each in enumerate(site.updates) if isinstance(each, Rescaled)}
    if rescaled:
        gain_EO = torch.zeros(site.num_experts, site.out_features)
        gain_EI = torch.zeros(site.num_experts, site.width)
        for e, update in rescaled.items():
            gain_EO[e] = update.gain_O
            if update.gain_I is not None:
                gain_EI[e] = update.gain_I
        with_bias = [e for e, each in rescaled.items() if each.with_bias]
        reads = any(each.gain_I is not None for each in rescaled.values()) and linear is not None
        layer = partial(layer_of, linear) if reads and linear is not None else None
        return RescaledExperts(site.factors, gain_EO, site.bias_O, with_bias, gain_EI if reads else None, layer)
    if any(isinstance(each, Stored) for each in site.updates):
        return StoredExperts(site.factors)
    return LowRankExperts(site.factors, mixing.average, trains="experts" in mixing.trains)
