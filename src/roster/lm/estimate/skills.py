"""Skills: a prompt asks for a few skills; a model's profile says how often it succeeded at each.

Symbolic-MoE has a language model name the skills; here they are the most telling terms of the prompt (largest TF-IDF
weight), which needs no further model. A term that no profile knows is mapped to the nearest that they know. A profile
is the share of successes on validation prompts that ask for the skill, drawn to the model's overall share (the source
counts +1 and -1); suitability is its mean over the prompt's skills, and a curve over suitability and overall share
gives the expected score.

The source draws recruits in proportion to suitability times overall strength at a temperature of 0.5: `recruiting`.
Where one recruit is to be the best, as behind a gateway, that favours whoever is strong overall; so the expected score
has a learned curve instead.

Source: Chen, Yun, Stengel-Eskin, Chen, Bansal, 2025, arXiv:2503.05641, whose code maps unknown skills by the cosine of
MiniLM's vectors; here nearness is that of the letters, unless an encoder is given.

Shape legend: N prompts, M models, V terms, U unknown terms, D width of the encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder, Letters
from roster.lm.estimate.base import Estimates, Estimator, check, column_means, probe_scores
from roster.lm.estimate.expense import Expense
from roster.lm.estimate.logistic import fit_logistic, sigmoid
from roster.lm.records import Matrix, Records

_TERM = re.compile(r"\w\w+|[^\w\s]")
_AT_ONCE = 1000
"""Unknown terms that are compared with all known ones in one product."""


class Skills(Estimator):
    """Profiles over terms; suitability is turned into an expected score by one logistic curve that models share.

    Args:
        per_prompt: how many terms count as a prompt's skills.
        least: a term must occur in so many training prompts.
        smooth: votes of the overall mean in every profile entry.
        nearest: the cosine from which an unknown term counts as the nearest known one; above 1 never.
        encoder: of terms, to find the nearest; None compares their letters.
        expense: part.
    """

    fitted = ("idf_V", "share_VM", "count_VM", "overall_M", "curve_2")
    facts = ("models", "terms", "bias")

    def __init__(
        self,
        per_prompt: int = 8,
        least: int = 5,
        smooth: float = 4.0,
        nearest: float = 0.3,
        encoder: Encoder | None = None,
        expense: Expense | None = None,
    ):
        self.per_prompt, self.least, self.smooth = per_prompt, least, smooth
        self.nearest, self.encoder = nearest, encoder or Letters()
        self.expense = expense or Expense()
        self._index: dict[str, int] | None = None
        self._term_VD: NDArray[np.float32] | None = None

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
        self._index = self._term_VD = None
        self.overall_M = column_means(records.score_NM)
        self.share_VM, self.count_VM = self._profile(records.prompts, records.score_NM, self.overall_M)
        suit_NM, _ = self._suitability(records.prompts, {})
        self.curve_2, self.bias = fit_logistic(self._features(suit_NM), records.score_NM.T.reshape(-1), 1.0)
        self.expense.fit(records)
        return self

    def skills(self, prompt: str) -> list[str]:
        """The prompt's skills, the most telling first; unknown terms by their nearest."""
        return [self.terms[n] for n in self._skills(prompt, self._nearest([prompt]))]

    def _known(self) -> dict[str, int]:
        if self._index is None:
            self._index = {term: n for n, term in enumerate(self.terms)}
        return self._index

    def _skills(self, prompt: str, mapped: Mapping[str, int]) -> list[int]:
        known = self._known()
        found = {known.get(term, mapped.get(term, -1)) for term in _TERM.findall(prompt.lower())} - {-1}
        return sorted(found, key=lambda n: (-self.idf_V[n], n))[: self.per_prompt]

    def _nearest(self, prompts: Sequence[str]) -> dict[str, int]:
        """Of each word that no profile knows, the known one that is nearest, where any is near enough."""
        known = self._known()
        terms = {term for prompt in prompts for term in _TERM.findall(prompt.lower()) if len(term) > 1}
        unknown = sorted(terms - set(known))
        if not unknown or not known or self.nearest > 1:
            return {}
        if self._term_VD is None:
            self._term_VD = self.encoder.fit(self.terms).encode(self.terms)
        found: dict[str, int] = {}
        for start in range(0, len(unknown), _AT_ONCE):
            part = unknown[start : start + _AT_ONCE]
            cosine_UV = self.encoder.encode(part) @ self._term_VD.T
            best_U = cosine_UV.argmax(1)
            near_U = cosine_UV[np.arange(len(part)), best_U] >= self.nearest
            found |= {term: int(n) for term, n, near in zip(part, best_U, near_U, strict=True) if near}
        return found

    def _profile(self, prompts: Sequence[str], score_NM: Matrix, overall_M: Matrix) -> tuple[Matrix, Matrix]:
        count_VM = np.zeros((len(self.terms), score_NM.shape[1]))
        total_VM = np.zeros_like(count_VM)
        for prompt, score_M in zip(prompts, score_NM, strict=True):
            at = self._skills(prompt, {})
            count_VM[at] += np.isfinite(score_M)
            total_VM[at] += np.nan_to_num(score_M)
        return (total_VM + self.smooth * overall_M) / (count_VM + self.smooth), count_VM

    def _suitability(self, prompts: Sequence[str], mapped: Mapping[str, int]) -> tuple[Matrix, Matrix]:
        suit_NM = np.tile(self.overall_M, (len(prompts), 1))
        votes_NM = np.ones_like(suit_NM)
        for n, prompt in enumerate(prompts):
            if at := self._skills(prompt, mapped):
                suit_NM[n] = self.share_VM[at].mean(0)
                votes_NM[n] = self.count_VM[at].mean(0) + self.smooth
        return suit_NM, votes_NM

    def _features(self, suit_NM: Matrix) -> Matrix:
        overall_NM = np.broadcast_to(self.overall_M, suit_NM.shape)
        return np.stack([suit_NM.T.reshape(-1), overall_NM.T.reshape(-1)], axis=1) * 4

    def recruiting(self, prompts: Sequence[str], temperature: float = 0.5) -> Matrix:
        """How likely the source would draw each model for each prompt, [N, M]; rows sum to one.

        Args:
            prompts: N texts.
            temperature: of the overall strengths; 1 leaves them as they are, less tells strong models further apart.
        """
        suit_NM, _ = self._suitability(prompts, self._nearest(prompts))
        weight_NM = suit_NM * self.overall_M ** (1 / temperature)
        return np.asarray(weight_NM / np.maximum(weight_NM.sum(1, keepdims=True), 1e-12))

    def estimate(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Estimates:
        """What is expected, by profile."""
        suit_NM, votes_NM = self._suitability(prompts, self._nearest(prompts))
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
