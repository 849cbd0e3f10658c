"""JSON as the standard has it: no NaN, no infinity, no depth that exhausts the stack; one error for all of it."""

from __future__ import annotations

import json
import math
from typing import Any


def loads(text: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        json.JSONDecodeError: it is not JSON, or not JSON that could be written again.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # not UTF-8, numbers of thousands of digits, endless nesting
        raise json.JSONDecodeError(str(error) or "not JSON", "", 0) from None


def dumps(value: Any) -> bytes:
    """The shortest JSON text of a value that came from `loads`."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("a number that is too large")
    return value
