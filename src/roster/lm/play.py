"""Playing routers on recorded answers: every setting of every router's dial, on every test prompt.

Shape legend: L settings, N prompts, M models.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from roster.errors import RosterError
from roster.lm.calibration import auroc, brier, ece
from roster.lm.curve import Played
from roster.lm.decide import CascadeRule, Mix, Rule
from roster.lm.decide.weights import Weights
from roster.lm.estimate import Estimates, Truth
from roster.lm.estimate.base import column_means
from roster.lm.records import Matrix, Records
from roster.lm.routing import Routing
from roster.lm.sureness import Sureness

TIMED_PROMPTS = 40


@dataclass(frozen=True)
class Run:
    """One router on one test set.

    Attributes:
        played: what each setting did.
        brier, ece, auroc: of the quality estimates against all recorded scores; None for those that make none.
        decision_ms: median milliseconds per decision, one prompt at a time; None when nothing is decided.
    """

    played: Played
    brier: float | None = None
    ece: float | None = None
    auroc: float | None = None
    decision_ms: float | None = None


def play(routing: Routing, test: Records, timed: bool = True, rules: Sequence[Rule] | None = None) -> Run:
    """A fitted router over its whole dial.

    Args:
        routing: fitted on other prompts.
        test: without missing cells (`complete`).
        timed: whether to measure the time of single decisions.
        rules: the settings of the dial; by default those that the estimates of these prompts suggest.
    """
    datasets = test.datasets if routing.sees_dataset else None
    estimates = ordered(routing.estimator.estimate(test.prompts, datasets), test.models)
    sure = routing.sure(test)
    settings = [play_setting(r, estimates, test, sure) for r in (routing.sweep(estimates) if rules is None else rules)]
    played = Played(np.array([s for s, _ in settings]), np.array([c for _, c in settings]), routing.mixes)
    if isinstance(routing.estimator, Truth):
        return Run(played)
    if sure is not None:  # who is asked next follows from answers, not from what was expected
        return Run(played, decision_ms=_judging_ms(routing, test) if timed else None)
    known_NM = np.isfinite(test.measured_NM)
    expected, score = estimates.quality_NM[known_NM], test.measured_NM[known_NM]
    return Run(
        played,
        brier(expected, score),
        ece(expected, score),
        auroc(expected, score),
        _decision_ms(routing, test) if timed else None,
    )


def dial(routing: Routing, records: Records) -> Sequence[Rule]:
    """A fitted router's settings, from frugal to generous, for prompts like these."""
    datasets = records.datasets if routing.sees_dataset else None
    return routing.sweep(ordered(routing.estimator.estimate(records.prompts, datasets), records.models))


def play_setting(
    rule: Rule, estimates: Estimates, test: Records, sure: Sureness | None = None
) -> tuple[Matrix, Matrix]:
    """What one setting gave: (score, cost) per prompt, each [N]; of a mix, in expectation.

    Args:
        rule: the setting.
        estimates: of the prompts, columns as the records'.
        test: what was recorded.
        sure: how sure each answer was, for cascades; by default as its log-probability says.

    Raises:
        RosterError: a cascade's answer of which nobody knows how sure it was.
    """
    if isinstance(rule, Mix):
        first, second = (np.array(play_setting(each, estimates, test, sure)) for each in (rule.first, rule.second))
        score_N, paid_N = (1 - rule.share) * first + rule.share * second
        return score_N, paid_N
    at_N = np.arange(len(test))
    if isinstance(rule, CascadeRule):
        known = sure or Sureness(confidence(test))
        kept_N, paid_N = rule.play(estimates, known.value_NM, test.cost_NM, known.check_NM)
        if np.isnan(paid_N).any():
            raise RosterError(f"records {test.name!r} lack checks of answers that a cascade has to look at")
    else:
        kept_N = rule.choose(estimates)
        paid_N = test.cost_NM[at_N, kept_N]
    return test.score_NM[at_N, kept_N], paid_N


def confidence(records: Records) -> Matrix:
    """How sure each answer was, in [0, 1]: the mean probability of its tokens.

    Raises:
        RosterError: no log-probabilities were recorded.
    """
    if records.logprob_NM is None or np.isnan(records.logprob_NM).any():
        raise RosterError(f"a cascade needs the log-probability of every answer; records {records.name!r} lack some")
    return np.exp(records.logprob_NM)


def ordered(estimates: Estimates, models: tuple[str, ...]) -> Estimates:
    """The estimates with their columns in another order of the same models."""
    at = [estimates.models.index(model) for model in models]
    names = ("quality_NM", "std_NM", "cost_NM", "delay_NM")
    return replace(estimates, models=tuple(models), **{name: getattr(estimates, name)[:, at] for name in names})


def _decision_ms(routing: Routing, test: Records) -> float:
    took = []
    for prompt, dataset in list(zip(test.prompts, test.datasets, strict=True))[:TIMED_PROMPTS]:
        start = time.perf_counter()
        routing.rule.choose(routing.estimator.estimate([prompt], [dataset]))
        took.append(time.perf_counter() - start)
    return 1000 * float(np.median(took))


def _judging_ms(routing: Routing, test: Records) -> float:
    """Of one answer, which a cascade judges before it asks on."""
    took = []
    for n in range(min(TIMED_PROMPTS, len(test))):
        one = test.rows(np.array([n])).only(test.models[:1])
        start = time.perf_counter()
        routing.sure(one)
        took.append(time.perf_counter() - start)
    return 1000 * float(np.median(took))


def play_random(test: Records) -> Run:
    """Every model equally often, one point. The expectation is taken exactly, so there are no dice."""
    return Run(Played(test.score_NM.mean(1)[None], test.cost_NM.mean(1)[None]))


def play_random_hull(test: Records) -> Run:
    """Coin tosses between the cheapest model, a uniform draw of all, and the dearest: random for every budget.

    It is as good as its best coin, and so may be far better than random itself.
    """
    mean_M = test.cost_NM.mean(0)
    pick = [mean_M.argmin(), None, mean_M.argmax()]
    score = [test.score_NM.mean(1) if m is None else test.score_NM[:, m] for m in pick]
    cost = [test.cost_NM.mean(1) if m is None else test.cost_NM[:, m] for m in pick]
    return Run(Played(np.array(score), np.array(cost)))


def play_oracle(test: Records) -> Run:
    """The best model for every single prompt, at every price: what no router can beat."""
    return play(Routing(Truth(test), Weights()), test, timed=False)


def best_single(train: Records, test: Records) -> tuple[str, float, float]:
    """The model with the best mean score in training: its name, and its quality and cost on the test."""
    quality_M = column_means(train.score_NM)
    name = train.models[int(quality_M.argmax())]
    m = test.column(name)
    return name, float(test.score_NM[:, m].mean()), float(test.cost_NM[:, m].mean())
