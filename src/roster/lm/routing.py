"""Routing: an estimator and a decision rule, fitted together. What an lm recipe composes."""

from __future__ import annotations

from dataclasses import dataclass, field

from roster.lm.decide import Rule, Weights
from roster.lm.estimate import Estimator
from roster.lm.records import Records


@dataclass
class Routing:
    """Any estimator with any rule.

    Attributes:
        estimator: says what to expect.
        rule: says what to do about it.
        sees_dataset: whether it is told where a prompt comes from, which a deployed router is not.
        mixes: whether its curve may mix two settings at random, as every deployed router can.
    """

    estimator: Estimator
    rule: Rule = field(default_factory=Weights)
    sees_dataset: bool = False
    mixes: bool = True

    def fit(self, records: Records) -> Routing:
        """Fits the estimator; returns itself."""
        self.estimator.fit(records)
        return self
