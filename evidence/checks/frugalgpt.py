"""FrugalGPT's claim: a chain of models with a learned scorer between them gives more for its price than single models.

Recorded answers of three models to CRUX and GSM8K (ZeroEval). What a chain is right more often than a mix of single
models by lot of the same price, at the price that it really paid on questions it did not learn from.

Shape legend: N prompts, M models.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from evidence.checks.learned_best_effort import recorded
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm.confidence import AnswerJudge
from roster.lm.curve import curve
from roster.lm.frugal import judged, scored, search
from roster.lm.records import Matrix, Records

SHARE, TOLD = 0.4, 0.1
"""Of the dearest model's cost, that a chain may cost; of the questions, of which the control is told the answers."""


@cache
def _records() -> Records:
    return recorded(texts=True)


@lru_cache(maxsize=2)
def _parts(draw: Draw) -> tuple[Records, Records]:
    """(To learn from: 70 % of the ground's training questions, by luck; to be judged on)."""
    whole = _records()
    order_N = np.random.default_rng([draw.ground, 1]).permutation(len(whole))
    learn_N, judge_N = np.split(order_N, [round(0.6 * len(order_N))])
    learn_N = np.random.default_rng([draw.luck, 2]).permutation(learn_N)[
        : 60 if draw.short else round(0.7 * len(learn_N))
    ]
    return whole.rows(learn_N), whole.rows(judge_N)


@lru_cache(maxsize=2)
def _scores(draw: Draw) -> tuple[Matrix, Matrix]:
    """The scorer's, of the answers to learn from, cross-fitted, and of those to be judged, [N, M] each."""
    learn, judge = _parts(draw)
    assert learn.answer_NM is not None
    prompts = [prompt for prompt in learn.prompts for _ in learn.models]
    judge_of = AnswerJudge().fit(prompts, [str(a) for a in learn.answer_NM.reshape(-1)], learn.score_NM.reshape(-1))
    return judged(learn, seed=draw.luck), scored(judge, judge_of)


def _chain(way: str) -> Contender:
    def run(draw: Draw) -> float:
        learn, judge = _parts(draw)
        rng = np.random.default_rng([draw.luck, 3])
        if way == "scorer":
            sure_NM, seen_NM = _scores(draw)
        else:
            sure_NM, seen_NM = rng.random(learn.score_NM.shape), rng.random(judge.score_NM.shape)
            if way == "told":
                sure_NM, seen_NM = (
                    _told(each, rows.score_NM, rng) for each, rows in ((sure_NM, learn), (seen_NM, judge))
                )
        budget = SHARE * float(learn.cost_NM.mean(0).max())
        order, thresholds, _, _ = search(learn.score_NM, sure_NM, learn.cost_NM, budget, longest=3, thresholds=8)
        quality, paid = _played(order, thresholds, judge, seen_NM)
        return quality - curve(judge.cost_NM.mean(0), judge.score_NM.mean(0)).quality_at(paid)

    return run


def _told(sure_NM: Matrix, score_NM: Matrix, rng: np.random.Generator) -> Matrix:
    return np.where(rng.random((len(sure_NM), 1)) < TOLD, score_NM, sure_NM)


def _played(
    order: tuple[int, ...], thresholds: tuple[float, ...], judge: Records, seen_NM: Matrix
) -> tuple[float, float]:
    """(Share of right answers kept, mean cost of all calls)."""
    kept_N, paid_N = np.zeros(len(judge)), np.zeros(len(judge))
    waits_N = np.ones(len(judge), dtype=bool)
    for m, threshold in zip(order, (*thresholds, -np.inf), strict=True):
        paid_N[waits_N] += judge.cost_NM[waits_N, m]
        ends_N = waits_N & (seen_NM[:, m] >= threshold)
        kept_N[ends_N] = judge.score_NM[ends_N, m]
        waits_N &= ~ends_N
    return float(kept_N.mean()), float(paid_N.mean())


CHECKS = (
    make_check(
        slug="frugalgpt",
        version=1,
        claim="A chain with a learned scorer is right more often than single models of the same price.",
        ground="recorded: ZeroEval CRUX and GSM8K, three models of 2.6, 8 and 70.6 billion parameters; 42 % of the "
        "2,119 questions to learn from, judged on 40 %",
        budget="at most 0.4 of the dearest model's mean cost on the questions learned from (tokens written times "
        "parameters); compared at the price that was really paid",
        contenders={
            "FrugalGPT": (
                "order and thresholds found under the budget, the scorer reads question and answer",
                _chain("scorer"),
            ),
            "lot": ("the same search over scores by lot: without the scorer", _chain("lot")),
            "told": ("control: scores by lot, but for a tenth of the questions right or wrong", _chain("told")),
        },
        pairs=Pairs("FrugalGPT", "lot", "lot", "told", "lot"),
        statistic=Statistic(
            "share of right answers, less that of a mix of single models by lot at the price paid", "higher", 0.01
        ),
    ),
)
