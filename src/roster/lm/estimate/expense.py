"""Expense: cost, delay and length of an answer, each a line over the length of the prompt, fitted per model.

A model whose records show no cost (or delay) has NaN: rules that weigh it say so instead of guessing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from roster.lm.part import Part
from roster.lm.prices import tokens
from roster.lm.records import Matrix, Records


class Expense(Part):
    """`start + slope * tokens of the prompt`, with neither below zero."""

    fitted = ("cost_M2", "delay_M2", "written_M2")

    written_M2: Matrix | None = None

    def fit(self, records: Records) -> Expense:
        """Fits a line per model, by least squares."""
        length_N = np.array([tokens(prompt) for prompt in records.prompts])
        self.cost_M2 = np.array([line(length_N, column) for column in records.cost_NM.T])
        self.delay_M2 = np.array([line(length_N, column) for column in records.delay_NM.T])
        if records.logged is None or not np.isfinite(records.logged.written_NM).any():
            self.written_M2 = None
        else:
            self.written_M2 = np.array([line(length_N, column) for column in records.logged.written_NM.T])
        return self

    def add_model(self, probes: Records) -> None:
        """Appends the lines of the one model that the probes are about."""
        new = Expense().fit(probes)
        self.cost_M2 = np.vstack([self.cost_M2, new.cost_M2])
        self.delay_M2 = np.vstack([self.delay_M2, new.delay_M2])
        if self.written_M2 is not None:
            unknown_12 = np.full((1, 2), np.nan)
            self.written_M2 = np.vstack([self.written_M2, unknown_12 if new.written_M2 is None else new.written_M2])

    def estimate(self, prompts: Sequence[str]) -> tuple[Matrix, Matrix]:
        """(cost, delay), each [N, M]."""
        length_N2 = np.array([(1.0, tokens(prompt)) for prompt in prompts])
        return length_N2 @ self.cost_M2.T, length_N2 @ self.delay_M2.T

    def written(self, prompts: Sequence[str]) -> Matrix | None:
        """Tokens of the answers, [N, M], NaN for models of which none is known; None where none is at all."""
        if self.written_M2 is None:
            return None
        return np.array([(1.0, tokens(prompt)) for prompt in prompts]) @ self.written_M2.T


def line(length_N: Matrix, value_N: Matrix) -> tuple[float, float]:
    """(start, slope) by least squares over the known values, neither below zero; NaN where none is known."""
    seen = np.isfinite(value_N)
    if not seen.any():
        return (np.nan, np.nan)
    x, y = length_N[seen], value_N[seen]
    spread = x - x.mean()
    slope = max(float(spread @ y / (spread @ spread)) if (spread @ spread) > 0 else 0.0, 0.0)
    start = float(y.mean() - slope * x.mean())
    if start < 0:
        return (0.0, float(x @ y / (x @ x)))
    return (start, slope)
