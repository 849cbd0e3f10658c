"""Cascading: a routing whose dial are cascades that were found on training prompts, behind a judge of answers.

FrugalGPT and AutoMix are such. They read recorded answers where other routers read prompts alone, and so every call is
paid that they needed to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from roster.lm.decide import Cascade, Rule
from roster.lm.estimate import Estimates, Mean
from roster.lm.estimate.base import column_means
from roster.lm.records import Records
from roster.lm.routing import Routing
from roster.lm.sureness import Judge


class Cascading(Routing):
    """A judge, and cascades by what it says; of the models, only what each does on average is known.

    Args:
        judge: of answers.
    """

    takes_models: ClassVar[bool] = False  # cascades are found among models whose answers are on record

    def __init__(self, judge: Judge):
        super().__init__(Mean(), judge=judge)
        self._found: Sequence[Rule] = (self.rule,)
        self._learned: Records | None = None

    def fit(self, records: Records) -> Cascading:
        """Fits estimator and judge; the rule is to ask the best single model, until a setting is chosen."""
        super().fit(records)
        self.rule = Cascade((records.models[int(column_means(records.score_NM).argmax())],))
        self._learned = records
        return self

    def sweep(self, estimates: Estimates) -> Sequence[Rule]:
        """The cascades worth having on the prompts of training; the estimates have no part in them."""
        if self.judge is not None and self._learned is not None:
            # Only when asked: the search takes longer than all the fitting.
            self._found, self._learned = self.judge.cascades(self._learned), None
        return self._found
