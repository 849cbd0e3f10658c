"""merge: several models into one, in the space of their weights; and routed experts into one plain adapter or model.

`plan_merge` turns a config (`read_config`: mergekit's YAML, read strictly) into a plan, `roster.weights.run` carries it
out; `merge_tensors` is the same kernel on tensors in memory, `merge_models` all of it in one call. Methods are listed
in `methods.py`, one file each; those that learn from data first say so with a `learner` (`learning.py`).
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
    from roster.merge.running import merge_models

__all__ = [
    "METHODS",
    "MergeConfig",
    "Merged",
    "find_method",
    "merge_experts",
    "merge_models",
    "merge_tensors",
    "parse_config",
    "plan_merge",
    "read_config",
]


_LATER = {
    "Merged": "roster.adapters.merging",
    "merge_experts": "roster.adapters.merging",
    "merge_models": "roster.merge.running",
}


def __getattr__(name: str) -> Any:
    """Routed experts, and texts, stand on packages whose import takes longer than most merges of checkpoints."""
    if name not in _LATER:
        raise AttributeError(f"module 'roster.merge' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
