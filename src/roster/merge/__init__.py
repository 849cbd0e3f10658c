"""Merge: weight-space work. A mixture whose route does not depend on the tokens is one plain adapter."""

from roster.merge.experts import Merged, merge_experts

__all__ = ["Merged", "merge_experts"]
