"""merge: several models into one, in the space of their weights; and routed experts into one plain adapter or model.

`plan_merge` turns a config (`read_config`: mergekit's YAML, read strictly) into a plan, `roster.weights.run` carries it
out; `merge_tensors` is the same kernel on tensors in memory. Methods are listed in `methods.py`, one file each.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from roster.merge.config import MergeConfig, parse_config, read_config
from roster.merge.memory import merge_tensors
from roster.merge.methods import METHODS, find_method
from roster.merge.plan import plan_merge

if TYPE_CHECKING:
    from roster.adapters.merging import Merged, merge_experts

__all__ = [
    "METHODS",
    "MergeConfig",
    "Merged",
    "find_method",
    "merge_experts",
    "merge_tensors",
    "parse_config",
    "plan_merge",
    "read_config",
]


def __getattr__(name: str) -> Any:
    """Routed experts stand on PEFT and transformers, whose import takes longer than most merges of checkpoints."""
    if name not in ("Merged", "merge_experts"):
        raise AttributeError(f"module 'roster.merge' has no attribute {name!r}")
    return getattr(import_module("roster.adapters.merging"), name)
