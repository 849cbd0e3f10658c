"""Label-free accuracy from short answers: models that agree with other good models are good.

The one-coin model of Dawid and Skene (1979): model m answers question n rightly with probability p_m, and wrong answers
scatter evenly over the other answers seen for n. Expectation-maximisation over which answer is right; no score is read.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.estimate.plain import Constant
from roster.lm.records import Matrix, Records

_QUOTES = "'\"`"
_NUMBER = re.compile(r"[$€£]?\s*(-?\d[\d,]*(?:\.\d+)?)\s*\.?")
"""A number with its currency sign and separators: $1,200.00 is 1200."""


class Agreement(Constant):
    """One accuracy per model from the answers alone."""

    def fit(self, records: Records) -> Agreement:
        """Like `Constant.fit`, but needs answers instead of scores."""
        if records.answer_NM is None:
            raise RosterError(f"records {records.name!r} have no answers to compare")
        self.models = records.models
        self.quality_M, _ = one_coin(records.answer_NM)
        self.std_M = np.sqrt((self.quality_M * (1 - self.quality_M)).clip(0.01) / max(len(records), 1))
        self.expense.fit(records)
        return self


def canonical(answer: str | None) -> str | None:
    """The text without surrounding space and quotes, numbers in one form; None when nothing is left."""
    if answer is None:
        return None
    text = str(answer).strip()
    number = _NUMBER.fullmatch(text)
    if number:
        return f"{float(number[1].replace(',', '')):.10g}"
    while len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        text = text[1:-1].strip()
    return text or None


def answer_ids(answer_NM: NDArray[np.object_]) -> NDArray[np.int64]:
    """Equal answers to a question get the same number, [N, M]; -1 where there is none."""
    ids_NM = np.full(answer_NM.shape, -1)
    for n, row in enumerate(answer_NM):
        seen: dict[str, int] = {}
        for m, answer in enumerate(row):
            text = canonical(answer)
            if text is not None:
                ids_NM[n, m] = seen.setdefault(text, len(seen))
    return ids_NM


def one_coin(answer_NM: NDArray[np.object_], rounds: int = 20) -> tuple[Matrix, Matrix]:
    """(accuracy per model [M], probability that each answer is right [N, M]; a missing answer is wrong)."""
    ids_NM = answer_ids(answer_NM)
    accuracy_M = np.full(ids_NM.shape[1], 0.7)
    right_NM = np.zeros(ids_NM.shape)
    for _ in range(rounds):
        for n, ids_M in enumerate(ids_NM):
            here = ids_M >= 0
            if here.any():
                kinds = ids_M.max() + 1
                odds_M = np.log(accuracy_M / (1 - accuracy_M) * max(kinds - 1, 1))
                vote_A = np.bincount(ids_M[here], weights=odds_M[here], minlength=kinds)
                share_A = np.exp(vote_A - vote_A.max())
                right_NM[n, here] = (share_A / share_A.sum())[ids_M[here]]
        accuracy_M = right_NM.mean(0).clip(0.02, 0.98)
    return accuracy_M, right_NM
