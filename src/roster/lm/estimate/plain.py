"""Estimators that do not read the prompt: the overall mean, Elo ratings, dice, and the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roster.errors import RosterError
from roster.lm.estimate.base import Estimates, Estimator, check, column_means, probe_scores
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.table import share_deviation
from roster.lm.records import Matrix, Records


class Constant(Estimator):
    """The same quality for every prompt: subclasses say which.

    Args:
        expense: part.
    """

    fitted = ("quality_M", "std_M")
    facts = ("models",)

    def __init__(self, expense: Expense | None = None):
        self.expense = expense or Expense()

    def fit(self, records: Records) -> Constant:
        """Learns one figure per model."""
        check(records)
        self.models = records.models
        self.quality_M = self.level(records)
        self.std_M = share_deviation(self.quality_M, np.isfinite(records.score_NM).sum(0))
        self.expense.fit(records)
        return self

    def level(self, records: Records) -> Matrix:
        """The figure per model, [M]."""
        return column_means(records.score_NM)

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """The same row for every prompt; only cost and delay follow its length."""
        shape = (len(prompts), 1)
        quality_NM, std_NM = np.tile(self.quality_M, shape), np.tile(self.std_M, shape)
        return Estimates(self.models, quality_NM, std_NM, *self.expense.estimate(prompts))

    def add_model(self, name: str, probes: Records) -> None:
        """The mean of the probes."""
        score_K = probe_scores(self, name, probes)
        mean = float(np.nanmean(score_K))
        self.quality_M = np.append(self.quality_M, mean)
        count = np.array(np.isfinite(score_K).sum())
        self.std_M = np.append(self.std_M, share_deviation(np.array(mean), count))
        self.expense.add_model(probes.only([name]))
        self.models = (*self.models, name)


class Mean(Constant):
    """The overall mean score: with it, a rule finds the best single model for every price."""


class Elo(Constant):
    """Ratings from all pairwise comparisons (a Bradley-Terry fit), as arenas publish them.

    Quality is the expected share of wins, ties as half, against the others; it is on another scale than scores.
    """

    def level(self, records: Records) -> Matrix:
        """Expected share of wins against a model drawn at random from the others."""
        wins_MM = _wins(records.score_NM)
        rating_M = _bradley_terry(wins_MM)
        beats_MM = 1 / (1 + np.exp(rating_M[None, :] - rating_M[:, None]))
        others = max(len(rating_M) - 1, 1)
        return (beats_MM.sum(1) - 0.5) / others if len(rating_M) > 1 else np.array([0.5])


def _wins(score_NM: Matrix) -> Matrix:
    """How often model i beat model j on the same prompt, ties as half, [M, M]."""
    models = score_NM.shape[1]
    wins_MM = np.zeros((models, models))
    for one in range(models):
        gap_NM = score_NM[:, one : one + 1] - score_NM
        wins_MM[one] = (np.nan_to_num(np.sign(gap_NM) + 1) / 2 * np.isfinite(gap_NM)).sum(0)
    np.fill_diagonal(wins_MM, 0)
    return wins_MM


def _bradley_terry(wins_MM: Matrix, rounds: int = 200) -> Matrix:
    """Log-strengths by the usual minorise-maximise steps (Hunter, 2004); half a win each way keeps them finite."""
    wins_MM = wins_MM + 0.5 * (1 - np.eye(len(wins_MM)))
    games_MM = wins_MM + wins_MM.T
    strength_M = np.ones(len(wins_MM))
    for _ in range(rounds):
        pair_MM = strength_M[:, None] + strength_M[None, :]
        strength_M = wins_MM.sum(1) / np.maximum((games_MM / pair_MM).sum(1), 1e-12)
        strength_M /= np.exp(np.log(strength_M).mean())
    return np.log(strength_M)


class Dice(Constant):
    """Random: a quality drawn anew for every prompt and model, so that each is chosen equally often.

    Args:
        seed: of the draw.
        expense: part.
    """

    def __init__(self, seed: int = 0, expense: Expense | None = None):
        super().__init__(expense)
        self.seed = seed
        self._rng = np.random.default_rng(seed)

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """Uniform numbers."""
        quality_NM = self._rng.random((len(prompts), len(self.models)))
        return Estimates(self.models, quality_NM, np.ones_like(quality_NM), *self.expense.estimate(prompts))


class Truth(Estimator):
    """The per-query oracle: the recorded scores and costs of the very prompts in question. A bound, never a router.

    Args:
        records: the truth; matched by position.
    """

    def __init__(self, records: Records):
        self.records = records
        self.models = records.models

    def fit(self, records: Records) -> Truth:
        """Nothing to learn."""
        return self

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """What was recorded."""
        if tuple(prompts) != self.records.prompts:
            raise RosterError("the oracle only knows the prompts that it was given")
        r = self.records
        return Estimates(r.models, r.score_NM, np.zeros_like(r.score_NM), r.cost_NM, r.delay_NM)
