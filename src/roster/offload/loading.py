"""`load`: a mixture of transformers from a folder, with as many of its experts in memory as a budget allows."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from roster.errors import RosterError, nearest
from roster.header import Spec
from roster.moe.adopting import find_experts
from roster.offload.engine import BUFFERS, Engine
from roster.offload.experts import OffloadedSite, put
from roster.offload.layout import Layout, expert_parameters, lay_out, resident_bytes
from roster.offload.recorder import check_model
from roster.offload.source import Disk, Host, Staged
from roster.offload.strategy import PLAIN, Geometry, Strategy, plain
from roster.offload.traces import Routes, check_geometry
from roster.recipes import RECIPES
from roster.routed.base import class_of, finding, locate
from roster.weights.plan import parse_size
from roster.weights.source import Checkpoint, open_checkpoint

DEFAULT = "fate-offload"


def load(
    folder: str | Path,
    max_memory: str | int,
    *,
    policy: str = DEFAULT,
    options: Mapping[str, Any] | None = None,
    routes: Routes | None = None,
    device: str | torch.device = "cpu",
    host_memory: str | int | None = None,
    direct: bool | None = None,
    threads: int = 3,
    int8: bool = False,
    **kwargs: Any,
) -> Any:
    """A mixture of transformers that is larger than the memory; its answers have the bits of the whole model's.

    Args:
        folder: config and safetensors, as transformers or the model's makers wrote them.
        max_memory: of all weights: "8GiB", or bytes. The rest of the model comes first, the remainder is slots for
            experts. Activations and the KV cache come on top.
        policy: who stays and what is read ahead: "lru", "lfu", "arc", "fifo", or a recipe (`fate-offload`,
            `moe-infinity`, `expertflow`, `moe-deployment`).
        options: the policy's.
        routes: recorded routes of this model, for policies that learn from them.
        device: of the model and the slots.
        host_memory: for a device other than the host's: experts are kept in host memory too when all of them fit into
            so much; otherwise they are read from disk.
        direct: read past the system's cache; by default when the experts do not fit into the memory that is free.
        threads: that read.
        int8: hold experts as 8-bit numbers with a scale per row, so that twice as many have a slot. Approximate: the
            answers are no longer the whole model's (see `roster.offload.int8`).
        kwargs: for `from_pretrained` (dtype, attn_implementation, experts_implementation, ...).

    Raises:
        RosterError: no such model, no mixture that transformers stacks, quantised or damaged weights, a budget below
            what must stay in memory, routes of another model, an unknown policy or option.
    """
    strategy = find_strategy(policy, options)
    checkpoint = open_checkpoint(folder)
    if "quantization_config" in checkpoint.config or "quantization_config" in kwargs:
        raise RosterError(f"{str(folder)!r} is quantised: experts are offloaded in the type that the model computes in")
    path, _ = locate(checkpoint.folder)
    cls = class_of(folder, path, finding(kwargs))
    skeleton, dtype = _skeleton(cls, path, checkpoint, kwargs)
    names = [f"{name}.experts" for name in find_experts(skeleton)]
    experts = _typed(expert_parameters(skeleton, names), checkpoint, dtype)
    layout = lay_out(skeleton, checkpoint.places, experts, repr(str(folder)), int8)
    geometry = geometry_of(skeleton.config, [site.num_experts for site in layout.sites])
    slots = _slots(layout, _bytes(max_memory), resident_bytes(layout, checkpoint.places, dtype), geometry, max_memory)
    if routes is not None:
        check_geometry(routes, geometry)
    run = strategy(geometry, slots, routes)
    model = _load_rest(cls, path, checkpoint, kwargs, str(device))
    where = torch.device(device)
    disk = Disk(layout, _too_large(layout) if direct is None else direct)
    engine = Engine(layout, _source(disk, layout, where, host_memory), run, where, threads)
    _install(model, engine, layout)
    try:
        if routes is not None:
            check_model(routes, model)
    except RosterError:
        engine.close()
        raise
    return model


def find_strategy(policy: str, options: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy of that name.

    Raises:
        RosterError: there is none, or it has no such option.
    """
    if policy in PLAIN:
        unknown = sorted(set(options or {}) - {"pool"})
        if unknown:
            raise RosterError(f"policy {policy!r} has no option {unknown[0]!r}: {nearest(unknown[0], ['pool'])}")
        return plain(policy, **dict(options or {}))
    known = [slug for slug, recipe in RECIPES.items() if recipe.kind == "offload"]
    if policy not in known:
        raise RosterError(f"unknown policy {policy!r}: {nearest(policy, [*known, *PLAIN])}")
    made: Strategy = RECIPES[policy](options)
    return made


def geometry_of(config: Any, experts: list[int]) -> Geometry:
    """What a cache knows of a model."""
    text = config.get_text_config()
    names = ("num_experts_per_tok", "top_k_experts", "moe_topk", "top_k")
    k = next((getattr(text, name) for name in names if isinstance(getattr(text, name, None), int)), 1)
    return Geometry(tuple(experts), k, text.vocab_size)


def _bytes(size: str | int) -> int:
    return parse_size(size) if isinstance(size, str) else size


def _skeleton(
    cls: Any, path: str, checkpoint: Checkpoint, kwargs: Mapping[str, Any]
) -> tuple[PreTrainedModel, torch.dtype | None]:
    """The model without weights, and the type that its weights will have (None: as stored)."""
    config = AutoConfig.from_pretrained(path, **finding(kwargs))
    dtype = kwargs.get("dtype", "auto")
    if isinstance(dtype, str) and dtype != "auto":
        dtype = getattr(torch, dtype, None)
    if dtype != "auto" and not isinstance(dtype, torch.dtype):
        raise RosterError(f"dtype={kwargs['dtype']!r} is no type of torch: write bfloat16, float16 or float32")
    with torch.device("meta"):
        return cls(config), None if dtype == "auto" else dtype


def _typed(
    experts: Mapping[str, Mapping[str, Spec]], checkpoint: Checkpoint, dtype: torch.dtype | None
) -> dict[str, dict[str, Spec]]:
    """With the type that transformers loads them in: the one asked for, or else the config's, or the first stored."""
    if dtype is None:
        named = checkpoint.config.get("dtype", checkpoint.config.get("torch_dtype"))
        stored = next(p.spec.dtype for p in checkpoint.places.values() if p.spec.dtype.is_floating_point)
        dtype = getattr(torch, str(named), stored) if named else stored
    return {site: {name: Spec(dtype, spec.shape) for name, spec in specs.items()} for site, specs in experts.items()}


def _slots(layout: Layout, budget: int, resident: int, geometry: Geometry, asked: str | int) -> int:
    fixed = resident + BUFFERS * layout.part_bytes
    slots = (budget - fixed) // layout.slot_bytes
    least = len(geometry.experts)
    if slots < least:
        needed = fixed + least * layout.slot_bytes
        raise RosterError(
            f"max_memory={asked!r} is too little: {resident:,} bytes of the model stay in memory, and with "
            f"{least} experts ({layout.slot_bytes:,} bytes each, one a layer) and {BUFFERS} buffers it needs "
            f"{needed:,} bytes"
        )
    return min(slots, geometry.total)


def _load_rest(cls: Any, path: str, checkpoint: Checkpoint, kwargs: Mapping[str, Any], device: str) -> Any:
    """Everything but the experts, by transformers itself: types, tied weights and places are its business."""
    thin = _thin_class(cls)
    arguments = {"use_safetensors": True, **kwargs, **({} if device == "cpu" else {"device_map": device})}
    try:
        model = thin.from_pretrained(path, **arguments).eval()
    except OSError as error:
        raise RosterError(f"cannot read {str(checkpoint.name)!r}: {str(error).splitlines()[0]}") from None
    # transformers leaves them in the mapped file, at addresses where kernels round differently, and where a change of
    # the file would change the model.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model.requires_grad_(False)


@functools.cache
def _thin_class(cls: Any) -> Any:
    """The model's class, whose experts have no stacked parameters; of the same name, by which transformers knows it."""

    def begin(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, config, *args, **kwargs)
        sites = [f"{name}.experts" for name in find_experts(self)]
        for site, specs in expert_parameters(self, sites).items():
            experts: Any = self.get_submodule(site)
            experts._is_hf_initialized = True  # nothing of it is to be drawn at random
            for name in specs:
                del experts._parameters[name]
                self._keys_to_ignore_on_load_unexpected.add(rf"{site.replace('.', '[.]')}[.]{name}$")

    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> None:
        """Refused: most of the model is not here."""
        raise RosterError("an offloaded model cannot be saved: copy the folder that it was loaded from")

    own = {"__init__": begin, "save_pretrained": save_pretrained, "__module__": cls.__module__, "base_class": cls}
    return type(cls.__name__, (cls,), own)


def _too_large(layout: Layout) -> bool:
    total = sum(site.nbytes * site.num_experts for site in layout.sites)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), total)
    return total > free


def _source(disk: Disk, layout: Layout, device: torch.device, host_memory: str | int | None) -> Disk | Staged:
    if device.type == "cpu":
        return disk
    total = layout.slot_bytes * layout.count
    if host_memory is not None and total <= _bytes(host_memory):
        return Staged(Host(layout, disk, pin=device.type == "cuda"), device)
    return Staged(disk, device)


def _install(model: Any, engine: Engine, layout: Layout) -> None:
    sites = [OffloadedSite(engine, index, site) for index, site in enumerate(layout.sites)]
    for number, (site, described) in enumerate(zip(sites, layout.sites, strict=True)):
        put(model.get_submodule(described.name), site)
        if number + 1 < len(sites):
            site.next_block = model.get_submodule(layout.sites[number + 1].name.rpartition(".")[0])
            site.extra = getattr(engine.run.predictor, "extra", 0)
    began = [0.0]

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        began[0] = time.perf_counter()
        ids, past = kwargs.get("input_ids", args[0] if args else None), kwargs.get("past_key_values")
        engine.statistics.tokens += 0 if ids is None else ids.numel()
        engine.start([] if ids is None else ids.tolist(), past is None or past.get_seq_length() == 0)

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any) -> None:
        engine.statistics.seconds += time.perf_counter() - began[0]

    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after, with_kwargs=True)
    model.offload = engine
    weakref.finalize(model, engine.close)  # else its threads would keep the slots
