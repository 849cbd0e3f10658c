"""merge: routed experts merged into one plain adapter or model."""

from roster.adapters.merging import Merged, merge_experts

__all__ = ["Merged", "merge_experts"]
