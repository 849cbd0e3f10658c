"""Finding, loading and naming the base model of a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from roster.errors import RosterError
from roster.pocket import base_path

POCKET = "roster/pocket-base"
_ALIASES = {"pocket": POCKET, POCKET: POCKET}


def load_base(base: str | Path, **kwargs: Any) -> tuple[nn.Module, str | None]:
    """Loads a base in the class that its own config names.

    Args:
        base: a folder, a name on the Hugging Face hub, or "pocket" for the model that comes with roster.
        kwargs: for transformers' `from_pretrained` (dtype, device_map, quantization_config, ...).

    Returns:
        (the model in evaluation mode, its public name or None for a folder of this machine).

    Raises:
        RosterError: no such model, a config that names no class, or weights that are missing or damaged.
    """
    import transformers

    path, name = locate(base)
    try:
        config = transformers.AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise RosterError(f"cannot read a model from {str(base)!r}: {_first_line(error)}") from None
    architectures = getattr(config, "architectures", None) or []
    cls = getattr(transformers, architectures[0], None) if architectures else None
    if cls is None:
        raise RosterError(f"the config of {str(base)!r} names no model class of transformers: {architectures}")
    if name == POCKET:
        # Shipped in half the bits; read back without loss into the type that CPUs are fast in.
        kwargs.setdefault("dtype", "float32")
    try:
        return cls.from_pretrained(path, **kwargs).eval(), name
    except (OSError, SafetensorError) as error:
        raise RosterError(f"cannot read the weights of {str(base)!r}: {_first_line(error)}") from None


def load_tokenizer(base: str | Path) -> Any:
    """The tokenizer of a base, by the same names as `load_base`; None where there is none."""
    import transformers

    path, _ = locate(base)
    try:
        return transformers.AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError):
        return None


def locate(base: str | Path) -> tuple[str, str | None]:
    """(what transformers can load, the public name or None)."""
    if str(base) in _ALIASES:
        return str(base_path()), POCKET
    if Path(base).is_dir():
        return str(base), None
    if isinstance(base, Path) or str(base).startswith((".", "/", "~")):
        raise RosterError(f"there is no model folder {str(base)!r}")
    return str(base), str(base)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
