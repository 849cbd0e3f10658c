"""Estimator: what is expected of every model for a prompt. Quality and its uncertainty, cost, delay.

Shape legend: N prompts, M models, K probes, D width of the encoder. `Embedding` is the common form of the estimators
that look at the prompt through an encoder: they only say how quality follows from vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.encode import Encoder, TfIdf
from roster.lm.estimate.expense import Expense
from roster.lm.part import Part
from roster.lm.records import Matrix, Records


@dataclass(frozen=True)
class Estimates:
    """What is expected of M models on N prompts; columns follow `models`.

    Attributes:
        models: the names.
        quality_NM: expected score.
        std_NM: standard deviation of that expectation.
        cost_NM: expected cost of the call; NaN where the records never showed one.
        delay_NM: expected seconds; NaN where the records never showed one.
    """

    models: tuple[str, ...]
    quality_NM: Matrix
    std_NM: Matrix
    cost_NM: Matrix
    delay_NM: Matrix

    def rows(self, at: NDArray[Any]) -> Estimates:
        """The estimates for some of the prompts."""
        names = ("quality_NM", "std_NM", "cost_NM", "delay_NM")
        return replace(self, **{name: getattr(self, name)[at] for name in names})


class Estimator(Part):
    """Fit on records, then asked for estimates. A model can be added later from a few probe answers."""

    models: tuple[str, ...] = ()

    def fit(self, records: Records) -> Estimator:
        """Learns from all rows of the records; returns itself."""
        raise NotImplementedError

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """What is expected; `datasets` is for yardsticks that are told where a prompt comes from."""
        raise NotImplementedError

    def add_model(self, name: str, probes: Records) -> None:
        """Adds a model of which only the probes are known.

        Args:
            name: the new model.
            probes: records with a column for it; other columns are ignored.

        Raises:
            RosterError: the name is taken, or the probes have no score for it.
        """
        raise NotImplementedError


class Embedding(Estimator):
    """An estimator of quality from vectors. Subclasses write `fit_quality` and `quality`.

    A model added from K probes is described as a blend of the known ones: a ridge regression of its probe scores on
    what is expected of the others on the same prompts. So any estimator can take up a new model.
    """

    fitted: ClassVar[tuple[str, ...]] = ("blend_AM", "level_A")
    facts: ClassVar[tuple[str, ...]] = ("models", "first_models")

    def __init__(self, encoder: Encoder | None = None, expense: Expense | None = None):
        self.encoder = encoder or TfIdf()
        self.expense = expense or Expense()
        self.blend_AM: Matrix | None = None
        self.level_A: Matrix | None = None

    def fit_quality(self, x_ND: NDArray[np.float32], records: Records) -> None:
        """Learns how scores follow from the vectors; missing scores are NaN."""
        raise NotImplementedError

    def quality(self, x_ND: NDArray[np.float32]) -> tuple[Matrix, Matrix]:
        """(quality, standard deviation) of the models that were there at training."""
        raise NotImplementedError

    def fit(self, records: Records) -> Embedding:
        """Fits encoder, expense and quality on all rows."""
        check(records)
        self.models = self.first_models = records.models
        self.blend_AM = self.level_A = None
        x_ND = self.encoder.fit(records.prompts).encode(records.prompts)
        self.expense.fit(records)
        self.fit_quality(x_ND, records)
        return self

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """What is expected, from the text alone."""
        x_ND = self.encoder.encode(prompts)
        quality_NM, std_NM = self.quality(x_ND)
        if self.blend_AM is not None and self.level_A is not None:
            added_NA = quality_NM @ self.blend_AM.T + self.level_A
            std_NA = np.repeat(std_NM.mean(1, keepdims=True), added_NA.shape[1], axis=1)
            quality_NM, std_NM = np.hstack([quality_NM, added_NA]), np.hstack([std_NM, std_NA])
        cost_NM, delay_NM = self.expense.estimate(prompts)
        return Estimates(self.models, quality_NM.clip(0, 1), std_NM, cost_NM, delay_NM)

    def add_model(self, name: str, probes: Records) -> None:
        """See `Estimator.add_model`."""
        score_K = probe_scores(self, name, probes)
        known_KM, _ = self.quality(self.encoder.encode(probes.prompts))
        weight_M, level = blend(known_KM, score_K)
        if self.blend_AM is None or self.level_A is None:
            self.blend_AM, self.level_A = weight_M[None], np.array([level])
        else:
            self.blend_AM, self.level_A = np.vstack([self.blend_AM, weight_M]), np.append(self.level_A, level)
        self.expense.add_model(probes.only([name]))
        self.models = (*self.models, name)


def blend(known_KM: Matrix, score_K: Matrix, ridge: float = 1.0) -> tuple[Matrix, float]:
    """Ridge regression of the probes' scores on what is expected of the known models: (weights [M], level)."""
    seen = np.isfinite(score_K)
    x_KM, y_K = known_KM[seen], score_K[seen]
    mean_M = x_KM.mean(0)
    centred_KM = x_KM - mean_M
    gram_MM = centred_KM.T @ centred_KM + ridge * np.eye(x_KM.shape[1])
    weight_M = np.linalg.solve(gram_MM, centred_KM.T @ (y_K - y_K.mean()))
    return weight_M, float(y_K.mean() - mean_M @ weight_M)


def check(records: Records) -> None:
    """Records that something can be learned from; RosterError otherwise."""
    if not len(records):
        raise RosterError(f"records {records.name!r} have no prompts to learn from")
    for model, column in zip(records.models, records.score_NM.T, strict=True):
        if np.isnan(column).all():
            raise RosterError(f"records {records.name!r} have no score of model {model!r} to learn from")


def probe_scores(estimator: Estimator, name: str, probes: Records) -> Matrix:
    """The scores of the model to be added, checked."""
    if name in estimator.models:
        raise RosterError(f"model {name!r} is already known")
    score_K = probes.score_NM[:, probes.column(name)]
    if not np.isfinite(score_K).any():
        raise RosterError(f"the probes have no score of model {name!r}")
    return score_K


def column_means(score_NM: Matrix) -> Matrix:
    """Mean score per model, missing cells aside; 0.5 where nothing was measured."""
    seen_NM = np.isfinite(score_NM)
    count_M = seen_NM.sum(0)
    return np.where(count_M > 0, np.where(seen_NM, score_NM, 0).sum(0) / np.maximum(count_M, 1), 0.5)
