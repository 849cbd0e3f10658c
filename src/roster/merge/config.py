"""mergekit's YAML, read as it is written, and strictly: an unknown key is an error with the nearest name.

Read: `merge_method`, `models` or `slices`, `base_model`, `parameters` (a value, a gradient over layers, or values by
filter; at the top, of a slice, of a model), `dtype`, `out_dtype`, `tokenizer_source`, `tokenizer: {source}`,
`chat_template`. Refused by name: `modules` (models of several towers), tokenizers that are put together of several.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from roster.errors import RosterError, nearest

_TOP = {
    "merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template",
}  # fmt: skip
_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Member:
    """A model in a slice: which layers of it, and its own settings."""

    model: str
    layers: tuple[int, int] | None = None
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Layers that are merged of the same members; all layers, where a config has `models`."""

    members: tuple[Member, ...]
    base_model: str | None = None
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class MergeConfig:
    """A merge, as a person describes it."""

    method: str
    slices: tuple[Slice, ...]
    base_model: str | None = None
    parameters: Parameters = field(default_factory=dict)
    dtype: torch.dtype | None = None
    out_dtype: torch.dtype | None = None
    tokenizer: str | None = None
    chat_template: str | None = None

    @property
    def models(self) -> list[str]:
        """All models that it names, the base first, each once."""
        named = [self.base_model]
        for each in self.slices:
            named += [each.base_model, *(member.model for member in each.members)]
        return list(dict.fromkeys(name for name in named if name is not None))


def read_config(path: Path) -> MergeConfig:
    """A YAML file.

    Raises:
        RosterError: not there, no YAML, an unknown or missing key, a value of the wrong kind.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RosterError(f"{str(path)!r} cannot be read: {error}") from None
    return parse_config(text, str(path))


def parse_config(text: str, where: str = "the config") -> MergeConfig:
    """The same from text; paths are taken as they are written."""
    try:
        raw = yaml.load(text, _Strict)
    except yaml.YAMLError as error:
        raise RosterError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    raw = _table(raw, where, _TOP)
    if "modules" in raw:
        raise RosterError(f"{where}: 'modules' (models of several towers) is not supported; use models or slices")
    if ("models" in raw) == ("slices" in raw) and ("models" in raw or raw.get("base_model") is None):
        raise RosterError(f"{where}: exactly one of 'models' and 'slices' must be there")
    if "merge_method" not in raw:
        raise RosterError(f"{where}: 'merge_method' is missing")
    base = _name(raw["base_model"], f"{where}: base_model") if raw.get("base_model") is not None else None
    if "models" in raw:
        members = tuple(_member(each, f"{where}: models", layers=False) for each in _list(raw["models"], where))
        slices: tuple[Slice, ...] = (Slice(members),)
    elif "slices" in raw:
        slices = tuple(_slice(each, f"{where}: slices") for each in _list(raw["slices"], where))
    else:
        slices = (Slice(()),)  # a base alone, which few methods take
    return MergeConfig(
        method=_name(raw["merge_method"], f"{where}: merge_method"),
        slices=slices,
        base_model=base,
        parameters=_parameters(raw.get("parameters"), where),
        dtype=parse_dtype(raw.get("dtype")),
        out_dtype=parse_dtype(raw.get("out_dtype")),
        tokenizer=_tokenizer(raw, where),
        chat_template=raw.get("chat_template"),
    )


def parse_dtype(name: Any) -> torch.dtype | None:
    """`"bfloat16"` -> torch.bfloat16; None stays None."""
    if name is None:
        return None
    if name not in _TYPES:
        raise RosterError(f"dtype {name!r}: {nearest(str(name), _TYPES)}")
    return _TYPES[name]


class _Strict(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise RosterError(f"line {node.start_mark.line + 1}: the key {key!r} is there twice")
        return super().construct_mapping(node, deep)


def _table(raw: Any, where: str, known: Iterable[str]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise RosterError(f"{where} must hold keys and values, not {type(raw).__name__}")
    for key in raw:
        if key not in set(known):
            raise RosterError(f"{where}: unknown key {key!r}: {nearest(str(key), known)}")
    return raw


def _list(raw: Any, where: str) -> list[Any]:
    if not isinstance(raw, list) or not raw:
        raise RosterError(f"{where}: 'models', 'slices' and 'sources' are lists of at least one entry")
    return raw


def _name(raw: Any, where: str) -> str:
    if isinstance(raw, str) and raw:
        return raw
    raise RosterError(f"{where} must be text, not {raw!r}")


def _member(raw: Any, where: str, layers: bool) -> Member:
    raw = _table(raw, where, {"model", "parameters", *(["layer_range"] if layers else [])})
    if "model" not in raw:
        raise RosterError(f"{where}: an entry has no 'model'")
    found = raw.get("layer_range")
    if layers and not (
        isinstance(found, list)
        and len(found) == 2
        and all(isinstance(each, int) and not isinstance(each, bool) for each in found)
        and 0 <= found[0] < found[1]
    ):
        raise RosterError(f"{where}: layer_range={found!r} must be [first, after the last]")
    parameters = _parameters(raw.get("parameters"), where)
    return Member(_name(raw["model"], f"{where}: model"), tuple(found) if layers else None, parameters)


def _slice(raw: Any, where: str) -> Slice:
    raw = _table(raw, where, {"sources", "base_model", "parameters"})
    members = tuple(_member(each, where, layers=True) for each in _list(raw.get("sources"), where))
    lengths = {each.layers[1] - each.layers[0] for each in members if each.layers}
    if len(lengths) != 1:
        raise RosterError(f"{where}: the sources of one slice have different numbers of layers: {sorted(lengths)}")
    base = _name(raw["base_model"], f"{where}: base_model") if raw.get("base_model") is not None else None
    return Slice(members, base, _parameters(raw.get("parameters"), where))


def _parameters(raw: Any, where: str) -> dict[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise RosterError(f"{where}: 'parameters' must hold names and values")
    return raw


def _tokenizer(raw: Mapping[str, Any], where: str) -> str | None:
    if raw.get("tokenizer") is not None and raw.get("tokenizer_source") is not None:
        raise RosterError(f"{where}: give 'tokenizer' or 'tokenizer_source', not both")
    source = raw.get("tokenizer_source")
    if raw.get("tokenizer") is not None:
        inner = _table(raw["tokenizer"], f"{where}: tokenizer", {"source", "tokens", "pad_to_multiple_of"})
        if inner.get("tokens") or inner.get("pad_to_multiple_of"):
            raise RosterError(f"{where}: tokenizer: 'tokens' and 'pad_to_multiple_of' (new rows) are not supported")
        source = inner.get("source")
    if source == "union":
        raise RosterError(f"{where}: a tokenizer put together of several ('union') is not supported: name one model's")
    return None if source is None else _name(source, f"{where}: tokenizer")
