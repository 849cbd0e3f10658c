"""Routing by load: simulators of servers and of batching instances, and the policies that are learned on them."""

from __future__ import annotations

from roster.lm.load.best_effort import BestEffort, Expected
from roster.lm.load.lengths import LengthPredictor
from roster.lm.load.search import cross_entropy
from roster.lm.load.workload import WorkloadAware

__all__ = ["BestEffort", "Expected", "LengthPredictor", "WorkloadAware", "cross_entropy"]
