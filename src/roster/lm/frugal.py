"""FrugalGPT: an order of models and a threshold for each, found on recorded answers, behind a learned scorer.

Models are asked one after the other; a scorer that has read question and answer says how likely the answer is right,
and the first answer whose score reaches its model's threshold is kept. Order and thresholds are the best on training
prompts whose mean cost keeps a budget. No log-probability is needed, so it works with any provider.

Source: Chen, Zaharia, Zou, 2023, "FrugalGPT: How to Use Large Language Models While Reducing Cost and Improving
Performance", arXiv:2305.05176. There the scorer is a fine-tuned DistilBERT; here it is `AnswerJudge`, a logistic
regression on both texts' vectors and a few figures, one for all models, cross-fitted for the search. There lists are
pruned by how often models disagree and thresholds interpolated; here every order of at most `longest` models meets
every combination of quantiles, which is exact on that grid.

Shape legend: N prompts, M models, T thresholds tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from roster.errors import RosterError
from roster.lm.confidence import AnswerJudge
from roster.lm.decide.cascade import Cascade
from roster.lm.records import Matrix, Records

MOST_MODELS = 8
"""Orders of more would be too many; the cheapest and the best are taken."""


@dataclass(frozen=True)
class Chain:
    """What FrugalGPT learned.

    Attributes:
        judge: scores any model's answer.
        rule: order and thresholds.
        quality, cost: means that it had on the training prompts, with cross-fitted scores.
    """

    judge: AnswerJudge
    rule: Cascade
    quality: float
    cost: float

    def answer(self, prompt: str, ask: Callable[[str, str], str]) -> tuple[str, tuple[str, ...]]:
        """Asks until an answer is sure enough: (the answer kept, the models asked).

        Args:
            prompt: the question.
            ask: (model, prompt) -> answer.
        """
        asked, answer = [], ""
        for model, threshold in zip(self.rule.order, (*self.rule.thresholds, 0.0), strict=True):
            asked.append(model)
            answer = ask(model, prompt)
            if model == self.rule.order[-1] or self.judge.confidence([prompt], [answer])[0] >= threshold:
                break
        return answer, tuple(asked)


def fit_chain(records: Records, budget: float, longest: int = 3, thresholds: int = 8, folds: int = 3) -> Chain:
    """Learns scorer, order and thresholds.

    Args:
        records: with answers, scores and costs of every model.
        budget: mean cost per prompt, of all calls together, at most.
        longest: models in a chain.
        thresholds: tried per model: quantiles of its scores.
        folds: of the cross-fitting.

    Raises:
        RosterError: no answers, a missing cell, or a budget below every chain.
    """
    if records.answer_NM is None:
        raise RosterError(f"records {records.name!r} have no answers, and FrugalGPT scores answers")
    whole_N = np.isfinite(records.score_NM).all(1) & np.isfinite(records.cost_NM).all(1)
    records = records.rows(whole_N & (records.answer_NM != None).all(1))  # noqa: E711 - elementwise
    if len(records) < 2 * folds:
        raise RosterError(
            f"records {records.name!r}: {len(records)} prompts have every answer, score and cost; too few"
        )
    sure_NM = judged(records, folds)
    order, threshold, quality, cost = search(records.score_NM, sure_NM, records.cost_NM, budget, longest, thresholds)
    rule = Cascade([records.models[m] for m in order], threshold)
    return Chain(_judge(records), rule, quality, cost)


def judged(records: Records, folds: int = 3, seed: int = 0) -> Matrix:
    """Each answer's score by a judge that has not seen its question, [N, M]."""
    fold_N = np.random.default_rng(seed).permutation(len(records)) % folds
    found_NM = np.empty(records.score_NM.shape)
    for fold in range(folds):
        judge = _judge(records.rows(fold_N != fold))
        found_NM[fold_N == fold] = scored(records.rows(fold_N == fold), judge)
    return found_NM


def scored(records: Records, judge: AnswerJudge) -> Matrix:
    """A judge's scores of recorded answers, [N, M]."""
    assert records.answer_NM is not None
    columns = [judge.confidence(records.prompts, [str(a) for a in column]) for column in records.answer_NM.T]
    return np.stack(columns, axis=1)


def with_scores(records: Records, judge: AnswerJudge) -> Records:
    """The records with the judge's scores where cascades look for log-probabilities, to be reported on."""
    return replace(records, logprob_NM=np.log(scored(records, judge).clip(1e-9, 1)))


def _judge(records: Records) -> AnswerJudge:
    """One for all models, as the source's."""
    assert records.answer_NM is not None
    prompts = [prompt for prompt in records.prompts for _ in records.models]
    answers = [str(answer) for answer in records.answer_NM.reshape(-1)]
    return AnswerJudge().fit(prompts, answers, records.score_NM.reshape(-1))


def search(
    score_NM: Matrix, sure_NM: Matrix, cost_NM: Matrix, budget: float, longest: int, thresholds: int
) -> tuple[tuple[int, ...], tuple[float, ...], float, float]:
    """(order, thresholds, quality, cost) of the best chain within the budget; among equals the cheapest.

    Raises:
        RosterError: a budget below every chain.
    """
    tried_MT = np.concatenate(
        [np.quantile(sure_NM, np.linspace(0, 1, thresholds), axis=0), np.ones((1, sure_NM.shape[1]))]
    ).T
    best: tuple[float, float, tuple[int, ...], tuple[float, ...]] | None = None
    for length in range(1, longest + 1):
        for order in itertools.permutations(_worth_asking(score_NM, cost_NM), length):
            for threshold in itertools.product(*(np.unique(tried_MT[m]) for m in order[:-1])):
                quality, cost = _played(order, threshold, score_NM, sure_NM, cost_NM)
                if cost <= budget * (1 + 1e-12) and (best is None or (quality, -cost) > (best[0], -best[1])):
                    best = (quality, cost, order, tuple(float(t) for t in threshold))
    if best is None:
        raise RosterError(
            f"no chain costs at most {budget:g} per prompt; the cheapest model {cost_NM.mean(0).min():.3g}"
        )
    return best[2], best[3], best[0], best[1]


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
