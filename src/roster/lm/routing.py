"""Routing: an estimator and a decision rule, fitted together. What an lm recipe composes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from roster.lm.decide import Rule, Weights
from roster.lm.estimate import Estimates, Estimator
from roster.lm.records import Records
from roster.lm.sureness import Judge, Sureness


@dataclass
class Routing:
    """Any estimator with any rule.

    Attributes:
        estimator: says what to expect.
        rule: says what to do about it.
        sees_dataset: whether it is told where a prompt comes from, which a deployed router is not.
        mixes: whether its curve may mix two settings at random, as every deployed router can.
        judge: of answers, for a rule that cascades; without one their log-probabilities judge them.
        takes_models: whether a model can be added later, from a few probe answers.
    """

    takes_models: ClassVar[bool] = True

    estimator: Estimator
    rule: Rule = field(default_factory=Weights)
    sees_dataset: bool = False
    mixes: bool = True
    judge: Judge | None = None

    def fit(self, records: Records) -> Routing:
        """Fits the estimator, and the judge if there is one; returns itself."""
        self.estimator.fit(records)
        if self.judge is not None:
            self.judge.fit(records)
        return self

    def sweep(self, estimates: Estimates) -> Sequence[Rule]:
        """The settings of its dial, from frugal to generous, for prompts of which this is expected."""
        return self.rule.sweep(estimates)

    def sure(self, records: Records) -> Sureness | None:
        """How sure recorded answers are, for a rule that cascades; None: as their log-probabilities say."""
        return None if self.judge is None else self.judge.of(records)

    @property
    def unserved(self) -> str | None:
        """Why no policy that a gateway runs can be made of it, as a clause; None where one can."""
        if self.sees_dataset:
            return "must be told every prompt's data set, which nobody does behind a gateway"
        if self.judge is not None and not self.judge.serves:
            return "has models check their own answers, several calls for one, which no policy of the gateway does"
        return None
