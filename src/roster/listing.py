"""What a folder of adapters holds, by configs, cards and headers alone: no weight is read, and torch is not imported.

`Library.read` and `roster experts check` read and check everything.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roster.entries import read_entries
from roster.errors import RosterError

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "card.json"
DEFAULT = "default"
"""What PEFT calls an adapter that nobody named."""
_FACTOR = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.weight)?$")


def adapter_folders(folder: str | Path) -> list[Path]:
    """The sub-folders that are adapters, in the order of their names.

    A folder that PEFT's `save_pretrained` wrote with several adapters in the model is one itself, and comes first.

    Raises:
        RosterError: no such folder, nothing in it, an adapter instead of a folder of them, or weights with no config.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RosterError(f"there is no folder {str(folder)!r}")
    for weights in sorted(folder.glob(f"*/{WEIGHTS}")):
        if not (weights.parent / CONFIG).exists():
            raise RosterError(f"{str(weights.parent)!r} has an {WEIGHTS}, but no {CONFIG}")
    paths = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    if (folder / CONFIG).exists():
        if not paths:
            raise RosterError(f"{str(folder)!r} is one adapter; give the folder above it, which holds several")
        if DEFAULT in (path.name for path in paths):
            raise RosterError(f"{str(folder)!r} holds two adapters called {DEFAULT!r}: itself, and the one in it")
        return [folder, *paths]
    if not paths:
        raise RosterError(f"{str(folder)!r} holds no adapters (sub-folders with an {CONFIG})")
    return paths


@dataclass(frozen=True)
class Listed:
    """One adapter.

    Attributes:
        name: of its folder.
        task: of its card; "" where it has none.
        ranks, scales: of each module, in one order; scales are empty for kinds other than LoRA.
        parameters: how many numbers its updates hold.
        base: what its config calls its base.
        weights_hash, base_hash: that its card records.
    """

    name: str
    task: str
    ranks: tuple[int, ...]
    scales: tuple[float, ...]
    parameters: int
    base: str | None
    weights_hash: str | None
    base_hash: str | None


def listed(folder: Path) -> list[Listed]:
    """Every adapter of a folder, in the order of `Library.read`.

    Raises:
        RosterError: no adapters, adapters of different bases, or one whose config, card or header cannot be read.
    """
    root = folder.resolve()
    found = [_listed(path, DEFAULT if path.resolve() == root else path.name) for path in adapter_folders(folder)]
    first = found[0]
    for each in found:
        if None not in (each.base_hash, first.base_hash):
            same = each.base_hash == first.base_hash
        else:
            same = each.base is None or first.base is None or each.base.rstrip("/") == first.base.rstrip("/")
        if not same:
            raise RosterError(
                f"adapters of different bases: {first.name!r} belongs to {first.base!r}, {each.name!r} to {each.base!r}"
            )
    return found


def _listed(path: Path, name: str) -> Listed:
    config, card = _object(path / CONFIG), _object(path / CARD) if (path / CARD).is_file() else {}
    ranks: dict[str, int] = {}
    parameters = 0
    for key, shape in _shapes(path / WEIGHTS).items():
        found = _FACTOR.match(key)
        if found is None:
            continue
        parameters += math.prod(shape)
        if found["factor"] == "A":
            ranks[found["module"]] = shape[0]
    scales = (
        tuple(_scale(config, module, rank, path) for module, rank in ranks.items())
        if config.get("peft_type") == "LORA"
        else ()
    )
    told = [value if isinstance(value := card.get(field), str) else None for field in ("weights_hash", "base_hash")]
    base = config.get("base_model_name_or_path")
    return Listed(name, str(card.get("task") or ""), tuple(ranks.values()), scales, parameters, base or None, *told)


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RosterError(f"{str(file)!r} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise RosterError(f"{str(file)!r} must hold an object, not a {type(found).__name__}")
    return found


def _shapes(file: Path) -> dict[str, list[int]]:
    """The shape of each tensor in a file of weights."""
    try:
        entries, _, start, size = read_entries(file)
        ends = [entry["data_offsets"][1] for entry in entries.values()]
        if start + max(ends, default=0) != size:
            raise RosterError(f"it should have {start + max(ends, default=0):,} bytes, and has {size:,}")
        return {name: [int(each) for each in entry["shape"]] for name, entry in entries.items()}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RosterError(f"{str(file)!r} is damaged: {error}") from None


def _scale(config: Mapping[str, Any], module: str, rank: int, path: Path) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA, with the alpha of the first pattern that fits, as in PEFT."""
    patterns = config.get("alpha_pattern") or {}
    try:
        fits = (alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
        alpha = float(next(fits, config["lora_alpha"]))
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError, re.error):
        raise RosterError(f"{str(path / CONFIG)!r} gives {module!r} no scale: run `roster experts check`") from None
