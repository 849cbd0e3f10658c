"""PEFT's `adapter_config.json`: read strictly, and asked what it says about one module.

Which features are refused, and why, is in `refusals.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from roster.errors import RosterError
from roster.files import read_object
from roster.library.refusals import check_config
from roster.shelf.folders import CONFIG as CONFIG


def read_raw(folder: Path) -> dict[str, Any]:
    """What the config in an adapter's folder says, whatever kind of adapter it is.

    Raises:
        RosterError: missing, or no JSON.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise RosterError(f"{str(folder)!r} is not an adapter: it has no {CONFIG}")
    return read_object(file)


def config_of(raw: dict[str, Any], file: Path) -> peft.LoraConfig:
    """The config of a LoRA or a DoRA.

    Args:
        raw: what the file says.
        file: for messages.

    Raises:
        RosterError: a value of the wrong kind, or a feature that roster does not read.
    """
    check_config(raw, repr(str(file)))
    for name, (fits, kind) in _KINDS.items():
        if name in raw and not fits(raw[name]):
            raise RosterError(f"{str(file)!r}: {name}={raw[name]!r} must be {kind}")
    known = {field.name for field in dataclasses.fields(peft.LoraConfig) if field.init} - {"peft_type"}
    try:
        return peft.LoraConfig(**{name: value for name, value in raw.items() if name in known})
    except (TypeError, ValueError) as error:
        raise RosterError(f"{str(file)!r}: {error}") from None


def resolve(config: peft.LoraConfig, module: str) -> tuple[int, float]:
    """(rank, scale) of one module, found by PEFT's own rule for patterns; scale is the factor before `B A`."""
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(get_pattern_key(list(ranks), module), config.r)
    alpha = alphas.get(get_pattern_key(list(alphas), module), config.lora_alpha)
    return rank, alpha / (math.sqrt(rank) if config.use_rslora else rank)


def targets(config: peft.LoraConfig, module: str) -> bool:
    """Whether PEFT would give this module an update.

    Forms that only a model can resolve (`all-linear`, nothing at all) are taken at the tensors' word; PEFT itself
    resolves them before it saves.
    """
    if config.target_modules is None or config.target_modules == "all-linear":
        return True
    return bool(check_target_module_exists(config, module))


def config_json(config: peft.PeftConfig) -> str:
    """The text that PEFT itself would write, with lists in one order whatever the process's hash seed."""
    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        fields: dict[str, Any] = json.loads((Path(scratch) / CONFIG).read_text(encoding="utf-8"))
    for name in ("target_modules", "exclude_modules", "feedforward_modules"):
        if isinstance(fields.get(name), list):
            fields[name] = sorted(fields[name])
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_alpha(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_regex(value: Any) -> bool:
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return True


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_target(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, str) for each in value)
    return value is None or _is_regex(value)


def _table_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if value is None:
            return True
        return isinstance(value, dict) and all(_is_regex(name) and fits(each) for name, each in value.items())

    return check


# What PEFT's dataclass leaves unchecked, and the arithmetic here relies on.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, "a whole number above 0"),
    "lora_alpha": (_is_alpha, "a finite number"),
    "rank_pattern": (_table_of(_is_rank), "a table from regular expressions to whole numbers above 0"),
    "alpha_pattern": (_table_of(_is_alpha), "a table from regular expressions to finite numbers"),
    "use_rslora": (_is_switch, "true or false"),
    "target_modules": (_is_target, "a list of names or a regular expression"),
    "exclude_modules": (_is_target, "a list of names or a regular expression"),
    "base_model_name_or_path": (_is_text, "text"),
}
