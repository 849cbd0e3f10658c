"""Writing a mixture of adapters: one folder that reloads to the same bits, on another machine too.

    roster.json          what it is: recipe and options, experts and hashes, fingerprint of the base
    experts/NAME/        each expert in PEFT's own format, with its card
    router.safetensors   every tensor of the routers and heads
    base/                the base itself, when it has no public name (or when asked for)

`roster.json` is written last: a folder without it is not a mixture. `roster.adapters.reading` reads it.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from roster.adapters.manifest import ROUTER, Base, Expert, Manifest
from roster.adapters.site import routed_linears
from roster.errors import RosterError
from roster.experts import LowRankExperts
from roster.library import LowRank, fingerprint, write_adapter
from roster.library.adapter import hash_modules
from roster.routed.running import CHILD, is_added
from roster.routed.writing import write_base
from roster.saving import MANIFEST, move_in


def save(model: Any, folder: Path, include_base: bool | None = None) -> None:
    """Writes a routed model.

    Args:
        model: a routed model.
        folder: where to; a mixture that is already there is replaced, and kept until the new one is whole.
        include_base: whether the base's own files go along; by default when it has no public name.
    """
    mixture = model.roster
    if include_base is None:
        include_base = mixture.base_name is None
    table = fingerprint(model, skip=is_added)
    if not table:
        raise RosterError(
            "all weights of the base are offloaded, so that there is nothing to tell it by: load it without "
            "offloading, and save that mixture"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        experts = _write_experts(model, new / "experts")
        save_file({k: v.contiguous() for k, v in router_state(model).items()}, new / ROUTER)
        if include_base:
            write_base(model, new / "base")
        base = Base(
            name=mixture.base_name,
            included=include_base,
            architecture=type(model).base_class.__name__,
            fingerprint=table,
        )
        manifest = Manifest(
            recipe=mixture.recipe, options=mixture.options, experts=experts, tasks=list(mixture.tasks), base=base
        )
        (new / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        move_in(new, folder)


def router_state(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that the recipe added, by its name in the model; the LoRA factors live with the experts."""
    factors = {
        f"{name}.{CHILD}.experts.{factor}"
        for name, child in routed_linears(model)
        if isinstance(child.experts, LowRankExperts)
        for factor in ("A_RI", "B_RO")
    }
    return {name: t for name, t in model.state_dict().items() if is_added(name) and name not in factors}


def current_adapters(model: Any) -> dict[str, Any]:
    """The experts as they are now, tensors included, by name."""
    adapters = {}
    for index, (name, adapter) in enumerate(model.roster.adapters.items()):
        modules = dict(adapter.modules)
        for site, child in routed_linears(model):
            factors = child.experts.expert(index) if isinstance(child.experts, LowRankExperts) else None
            if factors is not None:
                A_RI, B_OR, scale = factors
                modules[site] = LowRank(A_RI.detach().cpu(), B_OR.detach().cpu(), scale)
        weights_hash = hash_modules(modules)
        card = adapter.card.model_copy(update={"weights_hash": weights_hash})
        adapters[name] = replace(adapter, modules=modules, weights_hash=weights_hash, card=card)
    return adapters


def _write_experts(model: Any, folder: Path) -> list[Expert]:
    folder.mkdir()
    experts = []
    for name, adapter in current_adapters(model).items():
        write_adapter(folder, adapter)
        experts.append(Expert(name=name, weights_hash=adapter.weights_hash))
    return experts
