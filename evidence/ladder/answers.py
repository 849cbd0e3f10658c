"""Rungs that read answers: what was asked before is paid, whatever is kept.

Shape legend: N prompts, M models, L settings, A different answers to a prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from roster.lm.confidence import AnswerJudge
from roster.lm.curve import Played
from roster.lm.decide import Weights
from roster.lm.encode import Encoder
from roster.lm.estimate import Estimator, Logistic
from roster.lm.estimate.agreement import answer_ids
from roster.lm.panel import Panel
from roster.lm.play import dial
from roster.lm.records import Matrix, Records
from roster.lm.routing import Routing

CANDIDATES, LONGEST = 7, 4
"""Models that an order may hold, and how many of them."""
THRESHOLDS = tuple(float(t) for t in 1 - np.geomspace(0.3, 1e-4, 10))


@dataclass
class Voting:
    """The best models answer and vote; the dial is the routing's."""

    estimator: Estimator
    recruits: int = 3

    def fit(self, records: Records) -> Voting:
        """See `Contender`."""
        self.estimator.fit(records)
        return self

    def settings(self, records: Records) -> Sequence[Weights]:
        """See `Contender`."""
        return dial(Routing(self.estimator, Weights()), records)[::3]

    def play(self, records: Records, settings: Sequence[Weights]) -> Played:
        """See `Contender`."""
        played = [Panel(Routing(self.estimator, rule), self.recruits).play(records) for rule in settings]
        return Played(np.array([each.score_N for each in played]), np.array([each.cost_N for each in played]))


@dataclass
class Agreeing:
    """Models are asked in an order, cheap ones first, until one answer has enough weight.

    An answer's weight is the sum of its models' log-odds of being right, as learned; a setting is an order and the
    probability from which nobody else is asked.
    """

    orders: list[tuple[str, ...]] = field(default_factory=list)
    odds: dict[str, float] = field(default_factory=dict)

    def fit(self, records: Records) -> Agreeing:
        """Learns odds, and orders of models none of which is both dearer and worse than another."""
        quality_M, cost_M = records.score_NM.mean(0).clip(0.02, 0.98), records.cost_NM.mean(0)
        self.odds = dict(zip(records.models, np.log(4 * quality_M / (1 - quality_M)).tolist(), strict=True))
        beaten_M = [(quality_M[cost_M < cost_M[m]] > quality_M[m]).sum() for m in range(len(quality_M))]
        by_cost = sorted(np.argsort(beaten_M, kind="stable")[:CANDIDATES].tolist(), key=lambda m: float(cost_M[m]))
        names = [records.models[m] for m in by_cost]
        lengths = range(1, LONGEST + 1)
        self.orders = [order for length in lengths for order in itertools.combinations(names, length)]
        return self

    def settings(self, records: Records) -> Sequence[tuple[tuple[str, ...], float]]:
        """See `Contender`."""
        return [(order, t) for order in self.orders for t in (THRESHOLDS if len(order) > 1 else (1.0,))]

    def play(self, records: Records, settings: Sequence[tuple[tuple[str, ...], float]]) -> Played:
        """See `Contender`."""
        assert records.answer_NM is not None
        ids_NM = answer_ids(records.answer_NM)
        traces = {order: self._trace(records, ids_NM, order) for order in self.orders}
        both = np.array([_stopped(*traces[order], threshold) for order, threshold in settings])
        return Played(both[:, 0], both[:, 1])

    def _trace(self, records: Records, ids_NM: np.ndarray, order: tuple[str, ...]) -> tuple[Matrix, Matrix, Matrix]:
        """After each model: the leading answer's score, its probability, and what was paid; each [steps, N]."""
        row_N = np.arange(len(records))
        weight_NA = np.full((len(records), int(ids_NM.max()) + 1), -np.inf)
        score_NA = np.zeros_like(weight_NA)
        paid_N, steps = np.zeros(len(records)), []
        for name in order:
            m = records.column(name)
            said_N = ids_NM[:, m] >= 0
            at = (row_N[said_N], ids_NM[said_N, m])
            weight_NA[at] = np.where(np.isneginf(weight_NA[at]), 0, weight_NA[at]) + self.odds[name]
            score_NA[at] = records.score_NM[said_N, m]
            paid_N = paid_N + records.cost_NM[:, m]
            top_N = weight_NA.argmax(1)
            share_N = np.exp(weight_NA[row_N, top_N]) / (np.exp(weight_NA).sum(1) + 1)  # 1: an answer nobody gave
            steps.append((score_NA[row_N, top_N], share_N, paid_N))
        score, share, paid = (np.array(each) for each in zip(*steps, strict=True))
        return score, share, paid


def _stopped(score_TN: Matrix, share_TN: Matrix, paid_TN: Matrix, threshold: float) -> tuple[Matrix, Matrix]:
    """(score, cost) per prompt of the first step that is sure enough, or of the last one."""
    sure_TN = share_TN >= threshold
    sure_TN[-1] = True
    at_N, row_N = sure_TN.argmax(0), np.arange(score_TN.shape[1])
    return score_TN[at_N, row_N], paid_TN[at_N, row_N]


@dataclass
class Judged:
    """The weak model answers always; the strong one where it promises most over a judge's belief in that answer."""

    encoder: Encoder
    judge: AnswerJudge = field(default_factory=AnswerJudge)

    def fit(self, records: Records) -> Judged:
        """Learns to judge the weak model's answers, and the strong one's chance from the question."""
        assert records.answer_NM is not None
        self.judge.fit(records.prompts, list(records.answer_NM[:, 0]), records.score_NM[:, 0])
        self.strong = Logistic(encoder=self.encoder).fit(records.only(records.models[1:]))
        return self

    def _gain(self, records: Records) -> Matrix:
        assert records.answer_NM is not None
        sure_N = self.judge.confidence(records.prompts, list(records.answer_NM[:, 0]))
        return self.strong.estimate(records.prompts).quality_NM[:, 0] - sure_N

    def settings(self, records: Records) -> Sequence[float]:
        """See `Contender`."""
        return [float("inf"), *np.quantile(self._gain(records), np.linspace(1, 0, 41)).tolist()]

    def play(self, records: Records, settings: Sequence[float]) -> Played:
        """See `Contender`."""
        asked_LN = self._gain(records) >= np.array(settings)[:, None]
        score_LN = np.where(asked_LN, records.score_NM[:, 1], records.score_NM[:, 0])
        return Played(score_LN, records.cost_NM[:, 0] + asked_LN * records.cost_NM[:, 1])
