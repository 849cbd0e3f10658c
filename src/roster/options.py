"""Options of recipes as people type them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, get_type_hints

from roster.errors import RosterError, nearest


def check_options(name: str, made: Callable[..., Any], options: Mapping[str, Any], given: Collection[str] = ()) -> None:
    """Holds options to a function's (or class's) signature.

    Args:
        name: of the method, for messages.
        made: whose keyword arguments the options are.
        options: as they were typed.
        given: arguments that are no options.

    Raises:
        RosterError: an option that it does not have, with the nearest that it has, or a value of the wrong kind.
    """
    import pydantic  # a fifth of a second, which `roster --help` need not take

    strict = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
    known = [each for each in inspect.signature(made).parameters if each not in given]
    kinds = get_type_hints(vars(made).get("__init__", made) if inspect.isclass(made) else made)
    for option, value in options.items():
        if option not in known:
            raise RosterError(f"{name} has no option {option!r}: {nearest(option, known)}")
        try:
            pydantic.TypeAdapter(kinds[option], config=strict).validate_python(value)
        except pydantic.ValidationError as error:
            raise RosterError(f"{name}: option {option}={value!r}: {error.errors()[0]['msg'].lower()}") from None


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`["top_k=2", "experts=vectors"]` -> `{"top_k": 2, "experts": "vectors"}`; values are JSON where they can be."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise RosterError(f"--option takes name=value, not {pair!r}")
        if name in options:
            raise RosterError(f"--option {name} is given twice")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    return options
