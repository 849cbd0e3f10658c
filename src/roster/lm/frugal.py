"""FrugalGPT: an order of models and a threshold for each, found on recorded answers, behind a learned scorer.

Models are asked one after the other; a scorer that has read question and answer says how likely the answer is right,
and the first answer whose score reaches its model's threshold is kept. Orders and thresholds are the best on training
prompts for what they cost; which of them is taken is the report's or `tune`'s choice on validation prompts. No
log-probability is needed, so it works with any provider.

Source: Chen, Zaharia, Zou, 2023, "FrugalGPT: How to Use Large Language Models While Reducing Cost and Improving
Performance", arXiv:2305.05176. There the scorer is a fine-tuned DistilBERT; here it is `AnswerJudge`, a logistic
regression on both texts' vectors and a few figures, one for all models, cross-fitted for the search. There lists are
pruned by how often models disagree and thresholds interpolated; here every order of at most `longest` models meets
every combination of quantiles, which is exact on that grid.

Shape legend: N prompts, M models, C chains.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.confidence import AnswerJudge
from roster.lm.curve import corners
from roster.lm.decide import Cascade
from roster.lm.judging import without_gaps
from roster.lm.records import Matrix, Records
from roster.lm.sureness import Judge, Sureness

__all__ = ["AnswerScorer"]

MOST_MODELS, SETTINGS = 8, 40
"""Orders of more models would be too many: the cheapest and the best are taken. And settings of a dial."""


class AnswerScorer(Judge):
    """One judge for the answers of all models, as the source's.

    Args:
        longest: models in a chain.
        thresholds: tried per model: quantiles of its scores.
        folds: of the cross-fitting.
        judge: unfitted; a plain one by default.
    """

    serves = True

    def __init__(self, longest: int = 3, thresholds: int = 8, folds: int = 3, judge: AnswerJudge | None = None):
        if min(longest, thresholds - 1, folds - 1) < 1:
            raise RosterError("a chain has at least one model, its thresholds and the folds are at least two")
        self.longest, self.thresholds, self.folds = longest, thresholds, folds
        self.judge = judge or AnswerJudge()

    def fit(self, records: Records) -> AnswerScorer:
        """See `Judge.fit`."""
        _fit(self.judge, records)
        return self

    def of(self, records: Records) -> Sureness:
        """See `Judge.of`."""
        return Sureness(scored(records, self.judge))

    def confidence(self, prompts: Sequence[str], answers: Sequence[str]) -> Matrix:
        """See `Judge.confidence`."""
        return self.judge.confidence(prompts, answers)

    def cascades(self, records: Records) -> Sequence[Cascade]:
        """See `Judge.cascades`; scores are cross-fitted, so that no judge has seen the question that it judges."""
        records = records.rows(without_gaps(records))
        if len(records) < 2 * self.folds:
            raise RosterError(f"records {records.name!r}: {len(records)} prompts have every score and cost; too few")
        found = every_chain(
            records.score_NM, judged(records, self.folds), records.cost_NM, self.longest, self.thresholds
        )
        return [
            Cascade([records.models[m] for m in found.order_C[c]], found.threshold_C[c])
            for c in frontier(found.cost_C, found.quality_C)
        ]


def judged(records: Records, folds: int = 3, seed: int = 0) -> Matrix:
    """Each answer's score by a judge that has not seen its question, [N, M]."""
    fold_N = np.random.default_rng(seed).permutation(len(records)) % folds
    found_NM = np.empty(records.score_NM.shape)
    for fold in range(folds):
        judge = _fit(AnswerJudge(), records.rows(fold_N != fold))
        found_NM[fold_N == fold] = scored(records.rows(fold_N == fold), judge)
    return found_NM


def scored(records: Records, judge: AnswerJudge) -> Matrix:
    """A judge's scores of recorded answers, [N, M]."""
    assert records.answer_NM is not None
    columns = [judge.confidence(records.prompts, [str(a) for a in column]) for column in records.answer_NM.T]
    return np.stack(columns, axis=1)


def _fit(judge: AnswerJudge, records: Records) -> AnswerJudge:
    """From the answers of all models that have a score."""
    if records.answer_NM is None:
        raise RosterError(f"records {records.name!r} have no answers, and FrugalGPT scores answers")
    cells = list(zip(*np.nonzero(np.isfinite(records.score_NM)), strict=True))
    prompts = [records.prompts[n] for n, _ in cells]
    answers = [str(records.answer_NM[n, m]) for n, m in cells]
    return judge.fit(prompts, answers, np.array([records.score_NM[n, m] for n, m in cells]))


@dataclass(frozen=True)
class Chains:
    """Orders of models (columns) with thresholds, and the mean score and cost that each had; C of them."""

    order_C: Sequence[tuple[int, ...]]
    threshold_C: Sequence[tuple[float, ...]]
    quality_C: Matrix
    cost_C: Matrix


def every_chain(score_NM: Matrix, sure_NM: Matrix, cost_NM: Matrix, longest: int, thresholds: int) -> Chains:
    """All orders of at most `longest` models with all combinations of thresholds, played."""
    grid_MT = np.concatenate(
        [np.quantile(sure_NM, np.linspace(0, 1, thresholds), axis=0), np.ones((1, sure_NM.shape[1]))]
    ).T
    tried = [np.unique(grid_T) for grid_T in grid_MT]
    orders: list[tuple[int, ...]] = []
    chosen: list[tuple[float, ...]] = []
    played: list[tuple[float, float]] = []
    for length in range(1, longest + 1):
        for order in itertools.permutations(_worth_asking(score_NM, cost_NM), length):
            for threshold in itertools.product(*(tried[m].tolist() for m in order[:-1])):
                orders.append(order)
                chosen.append(threshold)
                played.append(_played(order, threshold, score_NM, sure_NM, cost_NM))
    quality_C, cost_C = np.array(played).T
    return Chains(orders, chosen, quality_C, cost_C)


def frontier(cost_C: Matrix, quality_C: Matrix) -> NDArray[np.int64]:
    """Which are better than all cheaper ones, at most `SETTINGS` of them evenly along the way, costs rising."""
    rising = corners(cost_C, quality_C, mixes=False)
    return np.asarray(rising[np.unique(np.linspace(0, len(rising) - 1, SETTINGS).round().astype(int))])


def search(
    score_NM: Matrix, sure_NM: Matrix, cost_NM: Matrix, budget: float, longest: int, thresholds: int
) -> tuple[tuple[int, ...], tuple[float, ...], float, float]:
    """(order, thresholds, quality, cost) of the best chain within the budget; among equals the cheapest.

    Raises:
        RosterError: a budget below every chain.
    """
    found = every_chain(score_NM, sure_NM, cost_NM, longest, thresholds)
    able = np.flatnonzero(found.cost_C <= budget * (1 + 1e-12))
    if not len(able):
        raise RosterError(
            f"no chain costs at most {budget:g} per prompt; the cheapest model {cost_NM.mean(0).min():.3g}"
        )
    best = int(able[np.lexsort((found.cost_C[able], -found.quality_C[able]))[0]])
    return found.order_C[best], found.threshold_C[best], float(found.quality_C[best]), float(found.cost_C[best])


def _worth_asking(score_NM: Matrix, cost_NM: Matrix) -> Sequence[int]:
    """All models, or of many those that fewest others beat at a lower price."""
    quality_M, cost_M = score_NM.mean(0), cost_NM.mean(0)
    beaten_M = [int((quality_M[cost_M <= cost_M[m]] > quality_M[m]).sum()) for m in range(len(quality_M))]
    return sorted(np.argsort(beaten_M, kind="stable")[:MOST_MODELS].tolist())


def _played(
    order: Sequence[int], threshold: Sequence[float], score_NM: Matrix, sure_NM: Matrix, cost_NM: Matrix
) -> tuple[float, float]:
    open_N = np.ones(len(score_NM), dtype=bool)
    quality = cost = 0.0
    for m, least in zip(order, (*threshold, 0.0), strict=True):
        cost += float(cost_NM[open_N, m].sum())
        kept_N = open_N & ((sure_NM[:, m] >= least) | (m == order[-1]))
        quality += float(score_NM[kept_N, m].sum())
        open_N &= ~kept_N
    return quality / len(score_NM), cost / len(score_NM)
