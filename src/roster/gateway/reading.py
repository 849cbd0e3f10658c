"""From the config file to a `Config`: YAML, environment variables, and one error line that says where and what.

`${NAME}` in any text is replaced by the environment variable of that name; `$$` is a dollar sign. The value of a
variable is never part of an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from roster.errors import RosterError, nearest
from roster.gateway.config_file import Config

_REFERENCE = re.compile(r"\$(?:\$|\{([^}]*)\}|)")
_LARGEST = 4 * 1024 * 1024
_DEEPEST = 16


def read_config(path: Path | str, environment: Mapping[str, str] | None = None) -> Config:
    """The checked contents of a config file.

    Args:
        path: a YAML file.
        environment: where `${NAME}` is looked up; by default the process's own.

    Raises:
        RosterError: the file cannot be read, or does not say what it must.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise RosterError(f"{path}: larger than {_LARGEST} bytes, so it is no config file")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RosterError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RosterError(f"{path}: not UTF-8 text") from None
    return parse_config(text, str(path), os.environ if environment is None else environment)


def parse_config(text: str, where: str, environment: Mapping[str, str]) -> Config:
    """`read_config` on text; `where` names it in errors."""
    try:
        written = yaml.load(text, _UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise RosterError(f"{where}, line {line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise RosterError(f"{where}: not YAML") from None
    if not isinstance(written, dict):
        raise RosterError(
            f"{where}: must be a mapping with `upstreams` and `models`, as `roster gateway --example` shows"
        )
    try:
        return Config.model_validate(_filled(written, where, (), environment))
    except ValidationError as error:
        raise RosterError(f"{where}: {worded(error, Config)}") from None


class _UniqueKeys(yaml.SafeLoader):
    """A key given twice is an error instead of a silent loss of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [each.value for each, _ in node.value if isinstance(each, yaml.ScalarNode)]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _filled(value: Any, where: str, at: tuple[str, ...], environment: Mapping[str, str]) -> Any:
    """The same value with every `${NAME}` replaced."""
    if len(at) > _DEEPEST:  # an alias that stands within what it names has no end
        raise RosterError(f"{where}: {'.'.join(at[:3])}...: nested deeper than any config is")
    if isinstance(value, dict):
        return {key: _filled(each, where, (*at, str(key)), environment) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, where, (*at, str(n)), environment) for n, each in enumerate(value)]
    if not isinstance(value, str) or "$" not in value:
        return value

    def look_up(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "$"
        if name not in environment:
            raise RosterError(f"{where}: {'.'.join(at)}: the environment variable {name!r} is not set")
        return environment[name]

    return _REFERENCE.sub(look_up, value)


def worded(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of pydantic's complaints in one line, with the nearest known key; never the value that was given."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    loc = first["loc"]
    if loc and loc[0] in getattr(model, "groups", {}):  # whose name does not stand in the file
        loc = loc[1:]
    at = ".".join(str(part) for part in loc if part != "[key]")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        unknown = str(first["loc"][-1])
        message = f"unknown key: {nearest(unknown, _fields(model, first['loc'][:-1]))}"
    elif first["type"] == "missing":
        message = "is missing"
    rest = len(error.errors()) - 1
    more = f" (and {rest} more)" if rest else ""
    return f"{at}: {message}{more}" if at else f"{message}{more}"


def _fields(model: type[BaseModel], at: tuple[int | str, ...]) -> list[str]:
    """The keys that are known at a place in the file."""
    found: Any = model
    for part in at:
        if isinstance(found, type) and issubclass(found, BaseModel):
            found = found.model_fields[str(part)].annotation
        else:
            found = _value_type(found)
    groups = getattr(found, "groups", {})
    known = [key for key in getattr(found, "model_fields", None) or [] if key not in groups]
    return known + [key for group in groups.values() for key in group.model_fields]


def _value_type(annotation: Any) -> Any:
    """`V` of `dict[K, V]`, through Annotated."""
    arguments = getattr(annotation, "__args__", ())
    return arguments[-1] if arguments else annotation
