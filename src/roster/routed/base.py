"""Finding, loading and naming the base model of a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from roster.errors import RosterError
from roster.pocket import base_path

POCKET = "roster/pocket-base"
_FINDING = frozenset(
    {"cache_dir", "code_revision", "force_download", "local_files_only", "proxies"}
    | {"revision", "subfolder", "token", "trust_remote_code"}
)
_ALIASES = {"pocket": POCKET, POCKET: POCKET}


def load_base(base: str | Path, **kwargs: Any) -> tuple[PreTrainedModel, str | None]:
    """Loads a base in the class that its own config names.

    Args:
        base: a folder, a name on the Hugging Face hub, or "pocket" for the model that comes with roster.
        kwargs: for transformers' `from_pretrained` (dtype, device_map, quantization_config, revision, token, ...); what
            says where and how to find files is passed to the config, too. Pickled weights are never read.

    Returns:
        (the model in evaluation mode, its public name or None for a folder of this machine).

    Raises:
        RosterError: no such model, a config that names no class or holds wrong values, or weights that are missing,
            pickled or damaged.
    """
    path, name = locate(base)
    cls = class_of(base, path, finding(kwargs))
    if name == POCKET:
        # Shipped in half the bits; read back without loss into the type that CPUs are fast in.
        kwargs.setdefault("dtype", "float32")
    if "gguf_file" not in kwargs:
        kwargs["use_safetensors"] = True
    try:
        return cls.from_pretrained(path, **kwargs).eval(), name
    except (OSError, SafetensorError) as error:
        hint = ""
        if Path(path).is_dir() and any(Path(path).glob("pytorch_model*.bin")):
            hint = "; it has only pickled weights, which roster never loads (they can run any code): save it anew"
        raise RosterError(f"cannot read the weights of {str(base)!r}: {_first_line(error)}{hint}") from None


def load_tokenizer(base: str | Path, **kwargs: Any) -> Any:
    """The tokenizer of a base, by the same names and with the same arguments as `load_base`; None where none is."""
    path, _ = locate(base)
    try:
        return transformers.AutoTokenizer.from_pretrained(path, **finding(kwargs))
    except (OSError, ValueError, KeyError):
        return None


def finding(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments of `from_pretrained`, those that say where and how files are found."""
    return {name: value for name, value in kwargs.items() if name in _FINDING}


def class_of(base: str | Path, path: str, where: Mapping[str, Any]) -> Any:
    """The class that a base's own config names.

    Args:
        base: what the user called it, for messages.
        path: what transformers can load; see `locate`.
        where: as `finding` gives it.

    Raises:
        RosterError: no config, one with wrong values, or one that names no class of transformers.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(path, **where)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise RosterError(f"cannot read a model from {str(base)!r}: {_first_line(error)}") from None
    architectures = getattr(config, "architectures", None) or [""]
    cls = getattr(transformers, architectures[0], None) if architectures[0] else None
    table = getattr(config, "auto_map", None) or {}
    remote = next((str(each) for each in table.values() if str(each).endswith(f".{architectures[0]}")), None)
    if cls is None and remote is not None and where.get("trust_remote_code"):
        known = {key: value for key, value in where.items() if key != "trust_remote_code"}
        cls = get_class_from_dynamic_module(remote, path, **known)
    if cls is None:
        hint = "; it brings its own code: read it, then pass trust_remote_code=True" if remote is not None else ""
        raise RosterError(f"the config of {str(base)!r} names no model class of transformers: {architectures}{hint}")
    return cls


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
