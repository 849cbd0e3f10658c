"""Skills: a prompt asks for a few skills; a model's profile says how often it succeeded at each.

Symbolic-MoE has a language model name the skills; here they are the most telling terms of the prompt (largest TF-IDF
weight), which needs no further model. A profile is the share of successes on validation prompts that ask for the
skill, drawn to the model's overall share (the source counts +1 and -1); suitability is its mean over the prompt's
skills, and a curve over suitability and overall share gives the expected score.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from roster.lm.estimate.base import Estimates, Estimator, check, column_means, probe_scores
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.logistic import fit_logistic, sigmoid
from roster.lm.records import Matrix, Records

_TERM = re.compile(r"\w\w+|[^\w\s]")


class Skills(Estimator):
    """Profiles over terms; suitability is turned into an expected score by one logistic curve that models share.

    Args:
        per_prompt: how many terms count as a prompt's skills.
        least: a term must occur in so many training prompts.
        smooth: votes of the overall mean in every profile entry.
        expense: part.
    """

    fitted = ("idf_V", "share_VM", "count_VM", "overall_M", "curve_2")
    facts = ("models", "terms", "bias")

    def __init__(self, per_prompt: int = 8, least: int = 5, smooth: float = 4.0, expense: Expense | None = None):
        self.per_prompt, self.least, self.smooth = per_prompt, least, smooth
        self.expense = expense or Expense()
        self._index: dict[str, int] | None = None

    def fit(self, records: Records) -> Skills:
        """Writes the profiles."""
        check(records)
        self.models = records.models
        documents = [set(_TERM.findall(prompt.lower())) for prompt in records.prompts]
        frequency: dict[str, int] = {}
        for document in documents:
            for term in document:
                frequency[term] = frequency.get(term, 0) + 1
        self.terms = tuple(sorted(term for term, count in frequency.items() if count >= self.least))
        count_V = np.array([frequency[term] for term in self.terms], dtype=float)
        self.idf_V = np.log(len(records) / np.maximum(count_V, 1))
        self._index = None
        self.overall_M = column_means(records.score_NM)
        self.share_VM, self.count_VM = self._profile(records.prompts, records.score_NM, self.overall_M)
        suit_NM, _ = self._suitability(records.prompts)
        self.curve_2, self.bias = fit_logistic(self._features(suit_NM), records.score_NM.T.reshape(-1), 1.0)
        self.expense.fit(records)
        return self

    def skills(self, prompt: str) -> list[str]:
        """The prompt's skills, the most telling first."""
        return [self.terms[n] for n in self._skills(prompt)]

    def _skills(self, prompt: str) -> list[int]:
        if self._index is None:
            self._index = {term: n for n, term in enumerate(self.terms)}
        found = {n for n in map(self._index.get, _TERM.findall(prompt.lower())) if n is not None}
        return sorted(found, key=lambda n: (-self.idf_V[n], n))[: self.per_prompt]

    def _profile(self, prompts: Sequence[str], score_NM: Matrix, overall_M: Matrix) -> tuple[Matrix, Matrix]:
        count_VM = np.zeros((len(self.terms), score_NM.shape[1]))
        total_VM = np.zeros_like(count_VM)
        for prompt, score_M in zip(prompts, score_NM, strict=True):
            at = self._skills(prompt)
            count_VM[at] += np.isfinite(score_M)
            total_VM[at] += np.nan_to_num(score_M)
        return (total_VM + self.smooth * overall_M) / (count_VM + self.smooth), count_VM

    def _suitability(self, prompts: Sequence[str]) -> tuple[Matrix, Matrix]:
        suit_NM = np.tile(self.overall_M, (len(prompts), 1))
        votes_NM = np.ones_like(suit_NM)
        for n, prompt in enumerate(prompts):
            if at := self._skills(prompt):
                suit_NM[n] = self.share_VM[at].mean(0)
                votes_NM[n] = self.count_VM[at].mean(0) + self.smooth
        return suit_NM, votes_NM

    def _features(self, suit_NM: Matrix) -> Matrix:
        overall_NM = np.broadcast_to(self.overall_M, suit_NM.shape)
        return np.stack([suit_NM.T.reshape(-1), overall_NM.T.reshape(-1)], axis=1) * 4

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """What is expected, by profile."""
        suit_NM, votes_NM = self._suitability(prompts)
        flat = sigmoid(self._features(suit_NM) @ self.curve_2 + self.bias)
        quality_NM = flat.reshape(suit_NM.shape[::-1]).T
        std_NM = np.sqrt((quality_NM * (1 - quality_NM)).clip(0.01) / np.maximum(votes_NM, 1))
        return Estimates(self.models, quality_NM, std_NM, *self.expense.estimate(prompts))

    def add_model(self, name: str, probes: Records) -> None:
        """Writes the new model's profile from its probes."""
        score_K1 = probe_scores(self, name, probes)[:, None]
        level_1 = column_means(score_K1)
        share_V1, count_V1 = self._profile(probes.prompts, score_K1, level_1)
        self.share_VM, self.count_VM = np.hstack([self.share_VM, share_V1]), np.hstack([self.count_VM, count_V1])
        self.overall_M = np.append(self.overall_M, level_1)
        self.expense.add_model(probes.only([name]))
        self.models = (*self.models, name)
