"""The old name of `roster.adapters.merging`; goes with version 0.3."""

from __future__ import annotations

import warnings
from typing import Any

from roster.adapters import merging


def __getattr__(name: str) -> Any:
    if name.startswith("__") or not hasattr(merging, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = f"{__name__}.{name} is roster.adapters.merging.{name} now; the old name goes with version 0.3"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return getattr(merging, name)
