"""Who was asked with which chance, and what was to be expected of every model: learned from other prompts.

Both are fitted on TF-IDF features of the prompt and cross-fitted: what is said of a prompt comes from models that have
not seen it. The chance of a model that was asked is the recorded propensity, where there is one.

Source of cross-fitting: Chernozhukov et al., 2018, "Double/debiased machine learning", arXiv:1608.00060.

Shape legend: N prompts to be judged, A all prompts (those of training, then the N), M models, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import TfIdf
from roster.lm.estimate.expense import line
from roster.lm.estimate.logistic import fit_logistic, sigmoid
from roster.lm.prices import tokens
from roster.lm.records import Logged, Matrix, Records

FOLDS = 5
_DIMENSIONS = 64


@dataclass(frozen=True, eq=False)
class Nuisance:
    """What is not of interest itself.

    Attributes:
        chance_NM: with which the log asks each model.
        score_NM, cost_NM: expected of each answer.
    """

    chance_NM: Matrix
    score_NM: Matrix
    cost_NM: Matrix


def cross_fitted(part: Records, rest: Records, calls_AM: Matrix, one_each: bool, seed: int = 0) -> Nuisance:
    """Fits on `rest` and four fifths of `part` what is said of the last fifth, five times.

    Args:
        part: the N prompts to be judged.
        rest: prompts of training, with the same models.
        calls_AM: how often each model was asked, of both together; 0 for never.
        one_each: whether a call asks one model, so that the chances of a prompt sum to 1; else several at once.
        seed: of the folds.
    """
    prompts = (*rest.prompts, *part.prompts)
    x_AD = TfIdf(dimensions=_DIMENSIONS).fit(prompts).encode(prompts)
    score_AM, cost_AM = (np.vstack([getattr(each, name) for each in (rest, part)]) for name in ("score_NM", "cost_NM"))
    length_A = np.array([tokens(prompt) for prompt in prompts])
    fold_N = np.random.default_rng(seed).permutation(len(part)) % min(FOLDS, len(part))
    fold_A = np.concatenate([np.full(len(rest), -1), fold_N])
    shape = (len(part), len(part.models))
    chance_NM, expected_NM, paid_NM = np.empty(shape), np.empty(shape), np.empty(shape)
    for fold in range(int(fold_N.max()) + 1):
        learn, apply = np.flatnonzero(fold_A != fold), np.flatnonzero(fold_N == fold)
        x_ND = x_AD[len(rest) + apply]
        chances = _choice if one_each else _presence
        chance_NM[apply] = chances(x_AD[learn], calls_AM[learn], x_ND)
        expected_NM[apply] = _expected(x_AD[learn], score_AM[learn], x_ND)
        paid_NM[apply] = _paid(length_A[learn], cost_AM[learn], length_A[len(rest) + apply])
    if one_each and part.logged is not None:
        chance_NM = with_recorded(chance_NM, part.logged)
    return Nuisance(chance_NM, expected_NM, paid_NM)


def with_recorded(chance_NM: Matrix, logged: Logged) -> Matrix:
    """Recorded propensities where there are some; what they leave of a prompt's 1 goes to the other models."""
    recorded_NM = np.isfinite(logged.propensity_NM)
    given_NM = np.where(recorded_NM, np.nan_to_num(logged.propensity_NM), 0.0)
    left_N1 = (1 - given_NM.sum(1, keepdims=True)).clip(0)
    others_NM = np.where(recorded_NM, 0.0, chance_NM)
    total_N1 = others_NM.sum(1, keepdims=True)
    spread_NM = others_NM * left_N1 / np.where(total_N1 > 0, total_N1, 1.0)
    return np.where(recorded_NM, given_NM, np.where(recorded_NM.any(1, keepdims=True), spread_NM, chance_NM))


def _choice(x_AD: NDArray[np.float32], calls_AM: Matrix, x_ND: NDArray[np.float32]) -> Matrix:
    """The chance of each model to be the one that is asked: logistic regression, calibrated by Platt's rule."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression

    a, m = np.nonzero(calls_AM)
    if len(np.unique(m)) < 2:
        return np.tile((calls_AM.sum(0) > 0) * 1.0, (len(x_ND), 1))
    weight = calls_AM[a, m] / calls_AM[a].sum(1)
    model = CalibratedClassifierCV(LogisticRegression(C=1.0, max_iter=500), method="sigmoid", cv=3)
    model.fit(x_AD[a], m, sample_weight=weight)
    chance_NM = np.zeros((len(x_ND), calls_AM.shape[1]))
    chance_NM[:, model.classes_] = model.predict_proba(x_ND)
    return chance_NM


def _presence(x_AD: NDArray[np.float32], calls_AM: Matrix, x_ND: NDArray[np.float32]) -> Matrix:
    """The chance of each model to be among those that are asked: a logistic regression per model."""
    fits = [fit_logistic(x_AD, (column > 0).astype(float), 1.0) for column in calls_AM.T]
    return np.stack([sigmoid(x_ND @ weight_D + bias) for weight_D, bias in fits], axis=1)


def _expected(x_AD: NDArray[np.float32], score_AM: Matrix, x_ND: NDArray[np.float32]) -> Matrix:
    """The expected score of each model: a logistic regression on the prompts that have its score."""
    fits = [fit_logistic(x_AD, column, 3.0) for column in score_AM.T]
    return np.stack([sigmoid(x_ND @ weight_D + bias) for weight_D, bias in fits], axis=1)


def _paid(length_A: Matrix, cost_AM: Matrix, length_N: Matrix) -> Matrix:
    """The expected cost of each model: a line over the length of the prompt."""
    start_M, slope_M = np.array([line(length_A, column) for column in cost_AM.T]).T
    paid_NM: Matrix = start_M + length_N[:, None] * slope_M
    return paid_NM
