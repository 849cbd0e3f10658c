"""A config made of what a caller or the command line asks for, in place of a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roster.errors import RosterError
from roster.merge.config import Member, MergeConfig, Slice, parse_dtype
from roster.merge.methods import find_method


def make_config(
    method: str,
    models: Sequence[str],
    base: str | None = None,
    settings: Mapping[str, Any] | None = None,
    dtype: str | None = None,
) -> MergeConfig:
    """A config of whole models.

    Args:
        method: its slug.
        models: those to merge.
        base: the model that they were made of.
        settings: by name; a list for one that each model has its own of.
        dtype: of the result.

    Raises:
        RosterError: no models, or a list of another length.
    """
    found = find_method(method)
    known = found.settings
    members = [Member(each) for each in models]
    shared: dict[str, Any] = {}
    for name, value in (settings or {}).items():
        if name in known and known[name].per_model and isinstance(value, list):
            if len(value) != len(members):
                raise RosterError(f"{name} has {len(value)} values for {len(members)} models")
            pairs = zip(members, value, strict=True)
            members = [Member(each.model, None, {**each.parameters, name: one}) for each, one in pairs]
        else:
            shared[name] = value
    if not members and found.most:
        raise RosterError("give the models to merge: --model A --model B")
    return MergeConfig(method, (Slice(tuple(members)),), base, shared, parse_dtype(dtype))
