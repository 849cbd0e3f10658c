"""mergekit-moe: attention, norms and embeddings of a base, feed-forward blocks of several models, routers by prompts.

Gate modes: `hidden` and `hidden_last` (the last token of each prompt), `hidden_avg` (the mean over its tokens), both of
what enters each layer of the base, averaged over the positive prompts, less the negative ones', at unit length;
`cheap_embed` (the sum of the prompts' embeddings, the same in every layer); `random` and `uniform_random`.
Read from mergekit-moe's YAML. Source: Goddard et al. 2024, arXiv 2403.13257, and mergekit 0.1.5. Differences: prompts
of different lengths are not averaged over padding, and the last token is each prompt's own last one. An unknown key is
an error with the nearest name; `dtype`, `residual_scale` and `noise_scale` are refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch
import yaml
from torch import Tensor

from roster.convert.btx import check_alike
from roster.convert.container import Expert, Sizes, find_container, side_files
from roster.convert.dense import PARTS, Dense, open_dense
from roster.convert.kernels import Given
from roster.errors import RosterError, nearest
from roster.header import Spec
from roster.weights import MAX_SHARD, Copy, Operand, Output, Plan, make_plan
from roster.weights.layers import Send, run_layers
from roster.weights.texts import Texts, as_texts

MODES = ("hidden", "hidden_avg", "hidden_last", "cheap_embed", "random", "uniform_random")
_CONTAINERS = {
    "mixtral": "mixtral",
    "qwen": "qwen2-moe",
    "qwen2-moe": "qwen2-moe",
    "granite-moe-shared": "granite-moe-shared",
}


class Source(pydantic.BaseModel, extra="forbid"):
    """An expert of the YAML."""

    source_model: str
    positive_prompts: list[str] = []
    negative_prompts: list[str] = []


class Config(pydantic.BaseModel, extra="forbid"):
    """mergekit-moe's YAML, as far as roster reads it."""

    base_model: str
    gate_mode: Literal["hidden", "hidden_avg", "hidden_last", "cheap_embed", "random", "uniform_random"] = "hidden"
    experts_per_token: int = 2
    architecture: str = "mixtral"
    experts: list[Source] = pydantic.Field(min_length=1)
    shared_experts: list[Source] = pydantic.Field(default=[], max_length=1)


def read_gate_config(path: Path) -> Config:
    """The YAML of a file.

    Raises:
        RosterError: no YAML, an unknown key (with the nearest), or a mode without the prompts that it needs.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = Config.model_validate(found)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise RosterError(f"{str(path)!r} cannot be read: {str(error).splitlines()[0]}") from None
    except pydantic.ValidationError as error:
        raise RosterError(f"{str(path)!r}: {_said(error)}") from None
    if config.architecture not in _CONTAINERS:
        raise RosterError(f"{str(path)!r}: architecture: {nearest(config.architecture, _CONTAINERS)}")
    lacking = next((each.source_model for each in config.experts if not each.positive_prompts), None)
    if not config.gate_mode.endswith("random") and lacking is not None:
        raise RosterError(f"{str(path)!r}: gate_mode {config.gate_mode} needs positive_prompts of {lacking!r}")
    return config


def _said(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        kind = Source if len(first["loc"]) > 1 else Config
        return f"unknown key {where!r}: {nearest(str(first['loc'][-1]), kind.model_fields)}"
    return f"{where}: {first['msg'].lower()}"


def plan_gated(config: Config, seed: int = 0, max_shard: int = MAX_SHARD) -> Plan:
    """The plan of the mixture.

    Args:
        config: see `read_gate_config`.
        seed: of drawn routers.
        max_shard: bytes of one output file.

    Raises:
        RosterError: models that are not alike, a container with a shared expert where none is named, or the other way.
    """
    base = open_dense(config.base_model)
    models = [open_dense(each.source_model) for each in config.experts]
    shared = [open_dense(each.source_model) for each in config.shared_experts]
    check_alike([base, *models, *shared])
    into = find_container(_CONTAINERS[config.architecture])
    if into.shared != bool(shared):
        raise RosterError(f"{into.name} has {'one shared expert' if into.shared else 'no shared experts'}")
    sizes = Sizes(len(models), config.experts_per_token, base.width, base.width if shared else 0)
    files = side_files(base, into, sizes)
    rows_LED = gate_rows(base, config, seed)
    outputs = [Output(name, spec, (Operand(base.source, name),), Copy()) for name, spec in base.others().items()]
    for layer in range(len(base.blocks)):
        experts = [Expert({part: each.operand(layer, part) for part in PARTS}, {}) for each in models]
        always = [Expert({part: each.operand(layer, part) for part in PARTS}, {}) for each in shared]
        outputs += into.outputs(layer, experts, always[0] if always else None)
        dtype = base.operand(layer, "gate").spec.dtype
        outputs.append(
            Output(into.router(layer), Spec(dtype, tuple(rows_LED[layer].shape)), (), Given(rows_LED[layer]))
        )
    sources = {each.source.name: each.source for each in (base, *models, *shared)}
    title = f"mergekit-moe: {len(models)} experts, gates {config.gate_mode}"
    return make_plan(outputs, list(sources.values()), files, max_shard, title)


def gate_rows(base: Dense, config: Config, seed: int = 0) -> Tensor:
    """Rows of every layer's router, [layers, experts, width]."""
    layers, width = len(base.blocks), int(base.config["hidden_size"])
    shape = (layers, len(config.experts), width)
    generator = torch.Generator().manual_seed(seed)
    if config.gate_mode == "random":
        return torch.randn(shape, generator=generator)
    if config.gate_mode == "uniform_random":
        return (2 * torch.rand(shape, generator=generator) - 1) * math.sqrt(1 / width)
    rows = []
    for each in config.experts:
        one_LD = _felt(base, each.positive_prompts, config.gate_mode)
        if each.negative_prompts:
            one_LD = one_LD - _felt(base, each.negative_prompts, config.gate_mode)
        rows.append(torch.nn.functional.normalize(one_LD, dim=-1))
    return torch.stack(rows, dim=1)


def _felt(base: Dense, prompts: Sequence[str], mode: str) -> Tensor:
    """What the base makes of some prompts, [layers, width]."""
    texts = _tokens(base, prompts)
    count_B = texts.mask_BS.sum(1)
    if mode == "cheap_embed":
        name = "model.embed_tokens.weight"
        spec = base.source.specs[name]
        embedding = base.source.read(name, 0, spec.numel).view(spec.shape).float()
        total_D = (embedding[texts.ids_BS] * texts.mask_BS[..., None]).sum((0, 1))
        # Unit length already here: negative prompts are taken away after that, as in mergekit.
        return torch.nn.functional.normalize(total_D, dim=-1).expand(len(base.blocks), -1)
    found: list[Tensor] = []

    def visit(number: int, layer: Any, send: Send) -> Tensor:
        read: list[Tensor] = []
        handle = layer.input_layernorm.register_forward_pre_hook(lambda module, given: read.append(given[0].float()))
        out = send()
        handle.remove()
        hidden_BSD = torch.cat(read)
        if mode == "hidden_avg":
            one_BD = (hidden_BSD * texts.mask_BS[..., None]).sum(1) / count_B[:, None]
        else:
            one_BD = hidden_BSD[torch.arange(len(hidden_BSD)), count_B - 1]
        found.append(one_BD.mean(0))
        return out

    run_layers(base.source, texts, visit)
    return torch.stack(found)


def _tokens(base: Dense, prompts: Sequence[str]) -> Texts:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(base.source.folder))
    begin = tokenizer.bos_token or ""
    rows = [tokenizer(begin + each, add_special_tokens=False)["input_ids"] for each in prompts]
    return as_texts(rows)
