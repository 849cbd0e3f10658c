"""Ensemble: several estimators, weighed by how well they foretold unseen answers; doubt where they differ.

Weights are found by non-negative least squares on cross-fitted estimates (stacking: Wolpert, 1992, "Stacked
Generalization", Neural Networks 5; non-negative as in Breiman, 1996, "Stacked Regressions", Machine Learning 24), so a
member that adds nothing gets nothing. The deviation of an estimate holds how far the members are apart: a rule with
`caution` takes that off (`Weights(caution=1)`), and so prefers what all of them expect to what one of them hopes for.

Shape legend: N prompts, M models, E members.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.estimate.base import Estimates, Estimator, check
from roster.lm.estimate.domains import Domains
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.knn import KNN
from roster.lm.estimate.logistic import Logistic
from roster.lm.records import Matrix, Records


class Ensemble(Estimator):
    """Any estimators that read prompts, together.

    Args:
        members: at least one; costs and delays are this ensemble's own.
        folds: of the cross-fitting that finds the weights; 0 weighs all members alike.
        seed: of the folds.
        expense: part.
    """

    fitted: ClassVar[tuple[str, ...]] = ("weight_E",)
    facts: ClassVar[tuple[str, ...]] = ("models",)

    def __init__(
        self,
        members: Sequence[Estimator] | None = None,
        folds: int = 3,
        seed: int = 0,
        expense: Expense | None = None,
    ):
        self.members = tuple(members) if members is not None else (KNN(), Logistic(), Domains(soft=True))
        if not self.members:
            raise RosterError("an ensemble needs at least one member")
        self.folds, self.seed, self.expense = folds, seed, expense or Expense()

    def fit(self, records: Records) -> Ensemble:
        """Finds the weights on folds, then fits every member on all rows."""
        check(records)
        self.models = records.models
        self.weight_E = np.full(len(self.members), 1 / len(self.members))
        if self.folds > 1 and len(self.members) > 1 and len(records) >= 2 * self.folds:
            self.weight_E = stacking(self._cross_fitted(records), records.score_NM)
        for member in self.members:
            member.fit(records)
        self.expense.fit(records)
        return self

    def _cross_fitted(self, records: Records) -> Matrix:
        """What each member expects of prompts that it was not fitted on, [E, N, M]; NaN where a fold taught nothing."""
        fold_N = np.random.default_rng(self.seed).permutation(len(records)) % self.folds
        found_ENM = np.full((len(self.members), *records.score_NM.shape), np.nan)
        for fold in range(self.folds):
            learn, apart = records.rows(fold_N != fold), records.rows(fold_N == fold)
            if np.isnan(learn.score_NM).all(0).any():  # a model with few answers may have none left to learn from
                continue
            for e, member in enumerate(self.members):
                fitted = copy.deepcopy(member).fit(learn)
                found_ENM[e, fold_N == fold] = fitted.estimate(apart.prompts, apart.datasets).quality_NM
        return found_ENM

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """The weighed mean; its deviation joins the members' own and their distances from it."""
        each = [member.estimate(prompts, datasets) for member in self.members]
        quality_ENM, std_ENM = np.stack([e.quality_NM for e in each]), np.stack([e.std_NM for e in each])
        quality_NM = np.einsum("e,enm->nm", self.weight_E, quality_ENM)
        variance_ENM = std_ENM**2 + (quality_ENM - quality_NM) ** 2
        std_NM = np.sqrt(np.einsum("e,enm->nm", self.weight_E, variance_ENM))
        return Estimates(self.models, quality_NM.clip(0, 1), std_NM, *self.expense.estimate(prompts))

    def add_model(self, name: str, probes: Records) -> None:
        """Every member takes it up by itself."""
        for member in self.members:
            member.add_model(name, probes)
        self.expense.add_model(probes.only([name]))
        self.models = (*self.models, name)


def stacking(expected_ENM: Matrix, score_NM: Matrix) -> NDArray[np.float64]:
    """Weights of at least zero that sum to one and bring the weighed mean nearest to the scores, [E].

    What decides is which model is better on a prompt, so both sides are taken less their mean over a prompt's models
    where there is more than one.
    """
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    seen_NM = np.isfinite(score_NM) & np.isfinite(expected_ENM).all(0)
    if not seen_NM.any():
        return np.full(len(expected_ENM), 1 / len(expected_ENM))
    both = np.concatenate([expected_ENM, score_NM[None]])
    count_N1 = np.maximum(seen_NM.sum(1, keepdims=True), 1)
    if score_NM.shape[1] > 1:
        both = both - (np.where(seen_NM, both, 0).sum(2, keepdims=True) / count_N1)
    left, right = both[:-1, seen_NM].T, both[-1, seen_NM]
    # A heavy row holds the sum at one.
    heavy = 1e3 * np.sqrt(len(right))
    weight_E, _ = nnls(np.vstack([left, np.full((1, left.shape[1]), heavy)]), np.append(right, heavy))
    return np.asarray(weight_E / max(weight_E.sum(), 1e-12))
