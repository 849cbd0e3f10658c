"""Part: something with options and fitted values that can be saved without pickle. Encoders, estimators and rules are.

A part's options are its constructor's arguments, kept under their names; `fitted` names the attributes that are arrays,
`facts` those that JSON can hold. Parts nest, one or several to an option.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError, nearest

Arrays = dict[str, NDArray[Any]]


class Part:
    """The base of whatever a policy's folder holds.

    Fitted arrays are kept in C order: products over another layout may differ in their last bits after loading.
    """

    fitted: ClassVar[tuple[str, ...]] = ()
    facts: ClassVar[tuple[str, ...]] = ()

    def options(self) -> dict[str, Any]:
        """The constructor's arguments with their present values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}


def pack(part: Part, prefix: str = "") -> tuple[dict[str, Any], Arrays]:
    """A part as (JSON tree, arrays by dotted name)."""
    options: dict[str, Any] = {}
    arrays: Arrays = {}
    for name, value in part.options().items():
        if isinstance(value, Part):
            tree, inner = pack(value, f"{prefix}{name}.")
            options[name] = {"part": tree}
            arrays |= inner
        elif isinstance(value, tuple) and value and all(isinstance(each, Part) for each in value):
            packed = [pack(each, f"{prefix}{name}.{n}.") for n, each in enumerate(value)]
            options[name] = {"parts": [tree for tree, _ in packed]}
            for _, inner in packed:
                arrays |= inner
        else:
            options[name] = {"value": list(value) if isinstance(value, tuple) else value}
    for name in part.fitted:
        if getattr(part, name, None) is not None:
            arrays[prefix + name] = np.ascontiguousarray(getattr(part, name))
    facts = {name: getattr(part, name) for name in part.facts if hasattr(part, name)}
    return {"class": type(part).__name__, "options": options, "facts": facts}, arrays


def unpack(
    tree: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], known: Mapping[str, type], prefix: str = ""
) -> Any:
    """The part that `pack` took apart.

    Args:
        tree, arrays: what `pack` gave.
        known: the classes that may occur, by name.
        prefix: of this part's arrays.

    Raises:
        RosterError: a class that is not known, or an option it does not have.
    """
    if tree["class"] not in known:
        raise RosterError(f"unknown part {tree['class']!r}: {nearest(tree['class'], known)}")
    kind = known[tree["class"]]
    options = {}
    for name, entry in tree["options"].items():
        if name not in inspect.signature(kind).parameters:
            raise RosterError(f"{tree['class']} has no option {name!r}")
        if "part" in entry:
            options[name] = unpack(entry["part"], arrays, known, f"{prefix}{name}.")
        elif "parts" in entry:
            inner = [unpack(each, arrays, known, f"{prefix}{name}.{n}.") for n, each in enumerate(entry["parts"])]
            options[name] = tuple(inner)
        else:
            value = entry["value"]
            options[name] = tuple(value) if isinstance(value, list) else value
    part = kind(**options)
    for name, value in tree["facts"].items():
        setattr(part, name, tuple(value) if isinstance(value, list) else value)
    for name in part.fitted:
        setattr(part, name, arrays.get(prefix + name))
    return part
