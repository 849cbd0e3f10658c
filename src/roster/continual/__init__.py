"""Continual: ensembles that learn one task after the other from features or inputs, and keep what they knew."""

from roster.continual.online_ensemble import OnlineEnsemble, soft_top_k
from roster.continual.selective_experts import SelectiveExperts

__all__ = ["OnlineEnsemble", "SelectiveExperts", "soft_top_k"]
