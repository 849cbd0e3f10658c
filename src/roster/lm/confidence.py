"""How likely an answer is right, learned from question and answer: what a cascade needs where no log-probability is.

Answers carry more signal than questions: their length, how they are worded, and whether the calculations that they
spell out ("9 * 2 = 18") come out.

Shape legend: N prompts, F features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder, TfIdf
from roster.lm.estimate.logistic import fit_logistic, sigmoid
from roster.lm.part import Part
from roster.lm.records import Matrix

__all__ = ["AnswerJudge"]

_NUMBER = r"-?\d[\d,]*\.?\d*"
_STEP = re.compile(rf"({_NUMBER})\s*([-+*/x])\s*\$?({_NUMBER})\s*=\s*\$?({_NUMBER})")


class AnswerJudge(Part):
    """Logistic regression on the encoded question, the encoded answer and a few figures about the answer.

    Args:
        strength: inverse penalty.
        question, answer: encoders.
    """

    fitted = ("weight_F",)
    facts = ("bias",)

    def __init__(self, strength: float = 3.0, question: Encoder | None = None, answer: Encoder | None = None):
        self.strength = strength
        self.question, self.answer = question or TfIdf(), answer or TfIdf()

    def fit(self, prompts: Sequence[str], answers: Sequence[str] | None, score_N: Matrix) -> AnswerJudge:
        """Learns from answers with known scores; without answers, from the questions alone."""
        self.question.fit(prompts)
        if answers is not None:
            self.answer.fit(answers)
        self.weight_F, self.bias = fit_logistic(self._features(prompts, answers), score_N, self.strength)
        return self

    def confidence(self, prompts: Sequence[str], answers: Sequence[str] | None) -> Matrix:
        """Probability that each answer is right, [N]."""
        return sigmoid(self._features(prompts, answers) @ self.weight_F + self.bias)

    def _features(self, prompts: Sequence[str], answers: Sequence[str] | None) -> NDArray[Any]:
        question_ND = self.question.encode(prompts)
        if answers is None:
            return question_ND
        return np.hstack([question_ND, self.answer.encode(answers), np.array([figures(a) for a in answers])])


def figures(answer: str) -> tuple[float, ...]:
    """Length, steps, wrong steps, whether there is any wrong step, and decimals: each roughly between 0 and 2."""
    steps = [right for step in _STEP.finditer(answer) if (right := _comes_out(step)) is not None]
    wrong = steps.count(False)
    decimals = len(re.findall(r"\d\.\d", answer))
    return (
        np.log1p(len(answer)) / 4,
        np.log1p(len(steps)),
        float(np.log1p(wrong)),
        float(wrong > 0),
        np.log1p(decimals),
    )


def _comes_out(step: re.Match[str]) -> bool | None:
    """Whether a calculation is right; None where it cannot be read."""
    try:
        left, right, said = (float(step[n].replace(",", "").rstrip(".")) for n in (1, 3, 4))
    except ValueError:
        return None
    sign = step[2]
    if sign == "/" and right == 0:
        return None
    result = {"+": left + right, "-": left - right}.get(sign, left / right if sign == "/" else left * right)
    return abs(result - said) <= 0.01 * max(1.0, abs(result))


def cross_fitted(
    prompts: Sequence[str], answers: Sequence[str] | None, score_N: Matrix, folds: int = 5, seed: int = 0
) -> Matrix:
    """The confidence of each answer by a judge that has seen neither it nor its question, [N]."""
    fold_N = np.random.default_rng(seed).permutation(len(prompts)) % folds
    found_N = np.empty(len(prompts))
    for fold in range(folds):
        learn, apply = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)

        def pick(texts: Sequence[str], at: NDArray[np.int64]) -> list[str]:
            return [texts[n] for n in at]

        judge = AnswerJudge().fit(
            pick(prompts, learn), None if answers is None else pick(answers, learn), score_N[learn]
        )
        found_N[apply] = judge.confidence(pick(prompts, apply), None if answers is None else pick(answers, apply))
    return found_N
