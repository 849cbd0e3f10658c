"""Writing a mixture of adapters: one folder that reloads to the same bits, on another machine too.

    roster.json          what it is: recipe and options, experts and hashes, fingerprint of the base
    experts/NAME/        each expert in PEFT's own format, with its card
    router.safetensors   every tensor of the routers and heads
    model.safetensors    what the recipe trains, by its names in the model, from which transformers' Trainer takes a
                         run up again; only where something is trained
    base/                the base itself, when it has no public name (or when asked for)

`roster.adapters.reading` reads it; how a folder is swapped in whole is `roster.saving`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from roster.adapters.manifest import BASE, EXPERTS, GIVEN, ROUTER, Base, Expert, MixtureManifest
from roster.adapters.site import routed_linears
from roster.errors import RosterError
from roster.experts import LowRankExperts
from roster.library import Adapter, LowRank, fingerprint, write_adapter
from roster.library.adapter import Magnitude, Vector, hash_modules
from roster.prompts import RAW
from roster.routed.running import CHILD, is_added
from roster.routed.writing import MIXTURE_ENTRIES, write_base, write_tokenizer
from roster.saving import MANIFEST, Wanted, writing
from roster.tensors import write_tensors


def save(model: Any, folder: Path, wanted: Wanted = Wanted()) -> None:  # noqa: B008
    """Writes a routed model.

    Args:
        model: a routed model.
        folder: where to; a mixture that is already there is replaced, and kept until the new one is whole.
        wanted: what else the caller asks for.
    """
    mixture = model.roster
    include_base = mixture.base_name is None if wanted.include_base is None else wanted.include_base
    table = fingerprint(model, skip=is_added, state=wanted.state)
    if not table:
        raise RosterError(
            "all weights of the base are offloaded, so that there is nothing to tell it by: load it without "
            "offloading, and save that mixture"
        )
    state = model.state_dict() if wanted.state is None else wanted.state
    with writing(folder, MIXTURE_ENTRIES) as new:
        experts = _write_experts(current_adapters(model, state), new / EXPERTS)
        write_tensors(router_state(model, state), new, ROUTER)
        if mixture.plan.trains:
            added = {name for name, parameter in model.named_parameters() if is_added(name) and parameter.requires_grad}
            buffers = {name for name, _ in model.named_buffers() if is_added(name)} & state.keys()
            write_tensors({name: state[name] for name in sorted(added | buffers)}, new, "model")
        if include_base:
            write_base(model, new / BASE, state, wanted.max_shard_size)
        write_tokenizer(model, new)
        base = Base(
            name=mixture.base_name,
            included=include_base,
            architecture=type(model).base_class.__name__,
            fingerprint=table,
        )
        manifest = MixtureManifest(
            recipe=mixture.recipe,
            options=storable(mixture.options),
            experts=experts,
            tasks=list(mixture.tasks),
            base=base,
            template=RAW if mixture.tokenizer is None else mixture.rendering.digest,
        )
        (new / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")


def storable(options: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's options as JSON holds them: a function leaves its place marked, and is asked for again."""
    return {name: GIVEN if callable(value) else value for name, value in options.items()}


def router_state(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Every tensor that the recipe added, by its name in the model; the LoRA factors live with the experts."""
    factors = {
        f"{name}.{CHILD}.experts.{factor}"
        for name, child in routed_linears(model)
        if isinstance(child.experts, LowRankExperts)
        for factor in ("A_RI", "B_RO")
    }
    state = model.state_dict() if state is None else state
    return {name: tensor for name, tensor in state.items() if is_added(name) and name not in factors}


def current_adapters(model: Any, state: Mapping[str, Tensor] | None = None) -> dict[str, Adapter]:
    """The experts as they are now, tensors included, by name.

    Args:
        model: a routed model.
        state: tensors to take instead of the model's own, by name.
    """
    adapters = {}
    for index, (name, adapter) in enumerate(model.roster.adapters.items()):
        modules = dict(adapter.modules)
        for site, child in routed_linears(model):
            if isinstance(child.experts, LowRankExperts):
                prefix = f"{site}.{CHILD}.experts"
                given = None if state is None else (state[f"{prefix}.A_RI"], state[f"{prefix}.B_RO"])
                factors = child.experts.expert(index, given)
                if factors is not None and not isinstance(modules.get(site), Magnitude | Vector):
                    A_RI, B_OR, scale = factors
                    modules[site] = LowRank(A_RI.detach().cpu(), B_OR.detach().cpu(), scale)
        weights_hash = hash_modules(modules, adapter.prompt_VD)
        card = adapter.card.model_copy(update={"weights_hash": weights_hash})
        adapters[name] = replace(adapter, modules=modules, weights_hash=weights_hash, card=card)
    return adapters


def _write_experts(adapters: Mapping[str, Adapter], folder: Path) -> list[Expert]:
    folder.mkdir()
    experts = []
    for name, adapter in adapters.items():
        write_adapter(folder, adapter)
        experts.append(Expert(name=name, weights_hash=adapter.weights_hash))
    return experts
