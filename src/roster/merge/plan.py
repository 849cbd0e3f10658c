"""From a config to a plan: which tensors of which models make each tensor, checked on headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roster.errors import RosterError
from roster.merge.alike import check_alike, one_dtype, why_not
from roster.merge.config import Member, MergeConfig, Slice
from roster.merge.learned import Learned
from roster.merge.method import Method
from roster.merge.methods import find_method
from roster.merge.names import depth_of, in_layer, is_buffer, is_first, layer_of
from roster.merge.opening import open_models
from roster.merge.settings import Settings, check_names
from roster.merge.side_files import check_tokenizers, side_files
from roster.weights import MAX_SHARD, Copy, Operand, Output, Plan, Source, Spec, make_plan, same_specs


@dataclass(frozen=True)
class Site:
    """One output tensor before its kernel is made: its name, and where each member keeps it."""

    name: str
    part: Slice
    depth: float
    names: tuple[str, ...]
    base_name: str


def plan_merge(config: MergeConfig, max_shard: int = MAX_SHARD, learned: Learned | None = None) -> Plan:
    """The plan of a merge.

    Args:
        config: what to merge, and how.
        max_shard: bytes of one output file.
        learned: for a method that learns from data, what it will know (`roster.merge.learning.prepare`); it may be
            learned after the plan is made, and before it is carried out.

    Raises:
        RosterError: a model that is not there or damaged, another set of tensors, shapes, types or vocabularies,
            weights that are tied in one model only, a setting that is unknown, missing or out of range.
    """
    method = find_method(config.method)
    if method.plan is not None:
        return method.plan(config, method, learned, max_shard)
    check_names(config, method)
    if method.learner is not None and learned is None:
        raise RosterError(f"method {method.slug!r} learns from data, which a config alone does not give (--data)")
    parts = [_complete(part, config, method) for part in config.slices]
    models = open_models(config.models)
    for part in parts:
        method.check_count(len(_others(part, config, method)), _base(part, config) is not None)
    check_tokenizers(config, models)
    settings = Settings(config, method)
    common = method.shares(len(_others(parts[0], config, method))) if method.shares else None
    outputs = []
    for site in _sites(parts, models, config):
        outputs.append(_output(site, config, method, settings, models, common, learned))
    settings.check_filters()
    layers = sum(_length(part, models) for part in parts)
    files = {**side_files(config, models, layers), **(learned.files() if learned is not None else {})}
    return make_plan(outputs, list(models.values()), files, max_shard, f"merge by {method.slug}")


def _complete(part: Slice, config: MergeConfig, method: Method) -> Slice:
    """The slice with its base among the members, where the base is one like the others (as mergekit has it)."""
    base = _base(part, config)
    if method.base != "member" or base is None or any(each.model == base for each in part.members):
        return part
    return Slice((*part.members, Member(base, part.members[0].layers)), part.base_model, part.parameters)


def _base(part: Slice, config: MergeConfig) -> str | None:
    return part.base_model or config.base_model


def _others(part: Slice, config: MergeConfig, method: Method) -> list[Member]:
    if method.base == "member":
        return list(part.members)
    return [each for each in part.members if each.model != _base(part, config)]


def _length(part: Slice, models: Mapping[str, Source]) -> int:
    layers = part.members[0].layers
    return layers[1] - layers[0] if layers else depth_of(models[part.members[0].model].specs)


def _sites(parts: Sequence[Slice], models: Mapping[str, Source], config: MergeConfig) -> Iterator[Site]:
    """Every output tensor, in the order of the first model's files within each slice."""
    at = 0
    for number, part in enumerate(parts):
        member = part.members[0]
        reference = models[member.model].specs
        first, length = member.layers[0] if member.layers else 0, _length(part, models)
        _check_range(part, models)
        for name in reference:
            layer = layer_of(name)
            if layer is None:
                here = number == 0 if is_first(name) else number == len(parts) - 1
                if here and not is_buffer(name):
                    yield Site(name, part, 0.0, (name,) * len(part.members), name)
            elif first <= layer < first + length and not is_buffer(name):
                inside = layer - first
                starts = [each.layers[0] if each.layers else 0 for each in part.members]
                names = tuple(in_layer(name, start + inside) for start in starts)
                depth = inside / (length - 1) if length > 1 else 1.0
                yield Site(in_layer(name, at + inside), part, depth, names, _base_name(part, config, names, name))
        at += length


def _base_name(part: Slice, config: MergeConfig, names: tuple[str, ...], name: str) -> str:
    listed = {each.model: each_name for each, each_name in zip(part.members, names, strict=True)}
    return listed.get(_base(part, config) or "", name)


def _check_range(part: Slice, models: Mapping[str, Source]) -> None:
    for member in part.members:
        specs = models[member.model].specs
        depth = depth_of(specs)
        if member.layers and member.layers[1] > depth:
            raise RosterError(f"layer_range={list(member.layers)}, but {member.model!r} has {depth} layers")
    whole = {each.model: models[each.model] for each in part.members if each.layers is None}
    if whole:
        check_alike(whole)


def _output(
    site: Site,
    config: MergeConfig,
    method: Method,
    settings: Settings,
    models: Mapping[str, Source],
    common: Any,
    learned: Learned | None,
) -> Output:
    base = _base(site.part, config)
    others = _others(site.part, config, method)
    found = [name for each, name in zip(site.part.members, site.names, strict=True) if each in others]
    operands = [
        Operand(models[each.model], _has(models[each.model], name)) for each, name in zip(others, found, strict=True)
    ]
    if method.base != "member" and base is not None:
        operands.insert(0, Operand(models[base], _has(models[base], site.base_name)))
    spec = same_specs(site.name, operands)
    values = settings.of(site.name, site.part, others, site.depth)
    if not spec.dtype.is_floating_point:
        return Output(site.name, spec, (operands[0],), Copy())
    dtype = config.out_dtype or config.dtype or one_dtype(site.name, operands)
    known = None
    if learned is not None:
        known = learned.of(site.name, [(each.model, name) for each, name in zip(others, found, strict=True)])
    kernel = method.make(values, site.name, spec.shape, common, known)
    if not method.takes:
        operands += known or []
    return Output(site.name, Spec(dtype, spec.shape), tuple(operands), kernel)


def _has(source: Source, name: str) -> str:
    if name not in source.specs:
        raise RosterError(f"{source.name!r} has no tensor {name!r}{why_not(name)}")
    return name
