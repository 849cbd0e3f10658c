"""Writing a routed model as an architecture that transformers, and every engine that reads its models, knows.

An adopted mixture is written as what it was. A dense model whose blocks were replaced is written as the sparse sibling
of its family (`roster.moe.targets`), where that can express the router and the experts. Before anything is written the
new model must give the same logits as the old one.

Shape legend: E experts, D model width, F expert width, G width of a shared expert.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from roster.errors import RosterError
from roster.experts import Gated
from roster.moe.adopting import adopted_sites
from roster.moe.dense import Dense, Sum
from roster.moe.gates import settled_gate
from roster.moe.layer import MoE
from roster.moe.replacing import routed_blocks
from roster.moe.targets import TARGETS, Blocks, Target, Tensors
from roster.moe.writing import whole_state
from roster.routed.model import RoutedModel
from roster.routed.running import CHILD
from roster.routed.writing import write_base
from roster.router import HALF, Router
from roster.saving import writing
from roster.score import Linear
from roster.select import TopK

_PROBE_TOKENS = 16
_LONGEST_PROBE = 4200
# Settings after so many tokens of which a model computes otherwise.
_LENGTHS = ("sliding_window", "attention_chunk_size", "original_max_position_embeddings")
# Of the largest logit: two orders of the same sums in each type.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_OWN_WORDS = ("model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path")


def export(model: Any, folder: str | Path) -> str:
    """Writes a routed model as an existing architecture.

    Args:
        model: what `roster.moe.adopt` or `roster.moe.replace` returned.
        folder: where to; it must not exist, or be empty.

    Returns:
        The name of the architecture.

    Raises:
        RosterError: no architecture can express this model, with the part that stands in the way; `save_pretrained`
            writes roster's own folder, which can.
    """
    folder = Path(folder)
    if not isinstance(model, RoutedModel) or not (adopted_sites(model) or routed_blocks(model)):
        raise RosterError("only a model with routed blocks is exported: what replace or adopt returned")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RosterError(f"{str(folder)!r} is there already: export writes a new folder")
    if adopted_sites(model):
        state = {**whole_state(model), **_gates(model)}
        return _write(folder, type(model).base_class.__name__, lambda new: write_base(model, new, state))
    blocks = read_blocks(model)
    target = _target(model, blocks)
    plain = as_architecture(model, blocks, target)
    if model.roster.tokenizer is not None:
        return _write(folder, type(plain).__name__, plain.save_pretrained, model.roster.tokenizer.save_pretrained)
    return _write(folder, type(plain).__name__, plain.save_pretrained)


def _write(folder: Path, name: str, *writers: Any) -> str:
    with writing(folder) as new:
        for writer in writers:
            writer(new)
    return name


def _gates(model: Any) -> Tensors:
    """The tensors that the model's own gates would have if they decided as its present routers do, by name."""
    tensors: Tensors = {}
    for name, site in adopted_sites(model).items():
        if site.block is None:
            continue
        router = getattr(site.block, "router", None)
        if not isinstance(site.block, MoE) or type(router) is not Router:
            _stuck(type(site.block if router is None else router).__name__, name, type(model).base_class.__name__)
        gate, values = settled_gate(model.get_submodule(name), router)
        if values is None:
            parts = f"{type(router.score).__name__} with {type(router.select).__name__}"
            _stuck(parts, name, type(model).base_class.__name__, f"which {gate} cannot express")
        tensors |= {f"{name}.{each}": value for each, value in values.items()}
    return tensors


def read_blocks(model: Any) -> Blocks:
    """What the mixtures of a replaced model are made of.

    Raises:
        RosterError: a part that is not a linear router with top-k over gated experts, with its name and place.
    """
    routed, tensors, shapes = [], {}, {}
    for name, block in routed_blocks(model).items():
        layer = _layer_of(name)
        if layer is None or not hasattr(block, "block"):
            _stuck(type(block).__name__, name)
        own, shape = _read(block.get_submodule("block"), name)
        routed.append(layer)
        tensors[layer], shapes[name] = own, shape
    if len(set(shapes.values())) > 1:
        different = ", ".join(f"{name}: {shape}" for name, shape in shapes.items())
        raise RosterError(f"layers with mixtures of different shapes are no known architecture ({different})")
    E, k, F, G, normalised = next(iter(shapes.values()))
    layers = model.config.get_text_config().num_hidden_layers
    return Blocks(E, k, F, G, normalised, tuple(routed), layers, tensors)


def _layer_of(site: str) -> int | None:
    """The number of the layer that a module belongs to, by its name."""
    number = re.search(r"\.(\d+)\.", site)
    return None if number is None else int(number.group(1))


def _read(block: nn.Module, name: str) -> tuple[Tensors, tuple[int, int, int, int, bool]]:
    """(tensors, (E, k, F, G, normalised)) of one mixture."""
    parts = list(block.blocks) if type(block) is Sum else [block]
    mixtures = [each for each in parts if type(each) is MoE]
    shared = [each for each in parts if type(each) is Dense]
    for each in parts:
        if type(each) not in (MoE, Dense):
            _stuck(type(each).__name__, name)
    if len(mixtures) != 1 or len(shared) > 1:
        _stuck(f"a sum of {len(mixtures)} mixtures and {len(shared)} shared experts", name)
    router, experts = mixtures[0].router, mixtures[0].experts
    for part, known in ((router, Router), (router.score, Linear), (router.select, TopK)):
        if type(part) is not known:
            _stuck(type(part).__name__, name)
    score, select = cast(Linear, router.score), cast(TopK, router.select)  # as was just seen
    for part in router.balance:
        bias_E = getattr(part, "bias_E", None)
        if isinstance(bias_E, Tensor) and bool(bias_E.any()):
            _stuck(f"the bias of {type(part).__name__}", name)
    own = {"gate_ED": score.weight_ED / select.temperature} | _gated(experts, name)
    if shared:
        own |= {f"{n.split('_')[0]}_{axes}": own_G[0] for n, axes, own_G in _shared(shared[0].experts, name)}
    E, _, F = own["gate_EDF"].shape
    k = min(select.k, E)
    shape = (E, k, F, own["gate_DG"].shape[1] if shared else 0, select.over == "chosen")
    return {each: tensor.detach() for each, tensor in own.items()}, shape


def _gated(experts: nn.Module, name: str) -> Tensors:
    if not isinstance(experts, Gated) or experts.bias:
        _stuck(f"{type(experts).__name__}{' with biases' if isinstance(experts, Gated) else ''}", name)
    return {"gate_EDF": experts.gate_EDF, "up_EDF": experts.up_EDF, "down_EFD": experts.down_EFD}


def _shared(experts: nn.Module, name: str) -> list[tuple[str, str, Tensor]]:
    found = _gated(experts, name)
    return [(each, "GD" if each.startswith("down") else "DG", tensor) for each, tensor in found.items()]


def _stuck(part: str, site: str, architecture: str = "", why: str = "") -> NoReturn:
    what = architecture or "a linear router with top-k over gated experts, as existing architectures have it"
    raise RosterError(
        f"this model is not {what}: {part} at {site!r} stands in the way{', ' + why if why else ''}; save_pretrained "
        "writes roster's own folder"
    )


def _target(model: Any, blocks: Blocks) -> Target:
    family = model.config.model_type
    reasons = []
    for target in TARGETS:
        if family in target.families:
            obstacle = target.obstacle(blocks)
            if obstacle is None:
                return target
            reasons.append(f"{target.name} {obstacle}")
    known = sorted({each for target in TARGETS for each in target.families})
    why = (
        "; ".join(reasons) or f"there is no sparse sibling of {family!r} in the table (of {', '.join(known)} there is)"
    )
    raise RosterError(
        f"no existing architecture expresses this model: {why}; save_pretrained writes roster's own folder"
    )


def as_architecture(model: Any, blocks: Blocks, target: Target) -> nn.Module:
    """The same model in a class of transformers, with the same logits.

    Raises:
        RosterError: a tensor without a place, a place without a tensor, or logits that differ.
    """
    import transformers

    config_class = getattr(transformers, f"{target.name}Config")
    text = model.config.get_text_config()
    known = {key: value for key, value in text.to_dict().items() if key not in _OWN_WORDS}
    fields = config_class().to_dict()
    given = {key: value for key, value in known.items() if key in fields}
    given |= {"head_dim": getattr(text, "head_dim", None)} if getattr(text, "head_dim", None) else {}
    given |= {**target.settings(blocks), **(target.settings_alone or {})}
    plain: Any = getattr(transformers, f"{target.name}ForCausalLM")(config_class(**given))
    plain = plain.to(device=model.device, dtype=model.dtype)
    _fill(plain, _renamed(model, blocks, target), target.name)
    if model.can_generate():
        plain.generation_config = copy.deepcopy(model.generation_config)
    _check_settings(model, plain, {*target.settings(blocks), *(target.settings_alone or {})})
    _compare(model, plain)
    exported: nn.Module = plain.train(model.training)
    return exported


def _renamed(model: Any, blocks: Blocks, target: Target) -> Tensors:
    """Every tensor of the model by its name in the target."""
    ours = {name: layer for name in routed_blocks(model) if (layer := _layer_of(name)) is not None}
    state: Tensors = {}
    for name, tensor in model.state_dict().items():
        if not any(name.startswith(f"{site}.") for site in ours) and not name.startswith(f"{CHILD}."):
            state[name] = tensor
    for site, layer in ours.items():
        parent = site.rpartition(".")[0]
        for name, tensor in target.tensors(dict(blocks.tensors[layer]), blocks).items():
            state[f"{parent}.{target.block}.{name}"] = tensor
    return state


def _fill(plain: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    try:
        plain.load_state_dict({each: tensor.contiguous() for each, tensor in state.items()}, strict=True)
    except RuntimeError as error:
        raise RosterError(f"the tensors of this model are not those of {name}: {str(error).splitlines()[1]}") from None


def _in_full(model: Any) -> Any:
    """The model, or a copy in float32 of one in half precision whose routers have been rounded to that."""
    if model.dtype not in HALF:
        return model
    full = copy.deepcopy(model)
    for router in (module for module in full.modules() if isinstance(module, Router)):
        for parameter in router.parameters():
            parameter.data = parameter.data.to(model.dtype)
    return full.float()


def _probe_length(config: Any) -> int:
    """So many tokens that every length which a setting names has been passed, as far as that can be computed."""
    rope = getattr(config, "rope_parameters", None) or {}
    named = [getattr(config, name, None) for name in _LENGTHS] + [rope.get(name) for name in _LENGTHS]
    passed = [each + 8 for each in named if isinstance(each, int) and each + 8 <= _LONGEST_PROBE]
    return max([_PROBE_TOKENS, *passed])


def _check_settings(model: Any, plain: Any, set_by_target: Collection[str]) -> None:
    """Refuses an export whose config does not say what the model's says.

    A setting that both have must have one value; one that only the model's config has must be as its class begins, for
    nothing in the other config can say it.
    """
    ours, theirs = model.config.get_text_config(), plain.config
    plain_class = type(ours)().to_dict()
    kept = theirs.to_dict()
    for name, value in ours.to_dict().items():
        if name in _OWN_WORDS or name in set_by_target:
            continue
        if name in kept and kept[name] != value and (kept[name] or value):  # None and 0 are both nothing
            _differs(name, value, kept[name], theirs)
        if name not in kept and value != plain_class.get(name) and not _idle(name, ours):
            _differs(name, value, "no such setting", theirs)


def _idle(name: str, config: Any) -> bool:
    """Settings of windows say nothing when no layer has one."""
    windows = ("sliding_window", "max_window_layers", "use_sliding_window", "layer_types")
    return name in windows and all(each == "full_attention" for each in getattr(config, "layer_types", None) or ["?"])


def _differs(name: str, ours: Any, theirs: Any, config: Any) -> NoReturn:
    raise RosterError(
        f"{type(config).__name__.removesuffix('Config')} cannot say what this model's config says: {name} is {ours!r}, "
        f"there it is {theirs!r}; save_pretrained writes roster's own folder"
    )


@torch.no_grad()
def _compare(model: Any, plain: nn.Module) -> None:
    """Refuses an export that does not compute the same."""
    config = model.config.get_text_config()
    shape = (2, _probe_length(config))
    ids = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    # Half precision is compared in full: a gate in half precision, as existing architectures have it, sends a few
    # tokens near ties elsewhere than a router in float32 does, which says nothing of whether the models are the same.
    training = model.training
    before, after = (_in_full(each).eval()(input_ids=ids, use_cache=False).logits for each in (model, plain))
    model.train(training)
    apart, scale = float((after - before).abs().max()), float(before.abs().max())
    if not apart <= _TOLERANCE[before.dtype] * scale:
        raise RosterError(
            f"{type(plain).__name__} with these weights does not answer as this model does: logits differ by "
            f"{apart:.2g}, the largest is {scale:.2g}; save_pretrained writes roster's own folder"
        )
