"""TF-IDF, reduced to a few hundred dimensions by a truncated SVD (latent semantic analysis). Needs nothing.

Fitting is scikit-learn's; applying is a few lines of numpy over the same arrays (vocabulary, idf, components), because
a decision must take far less than what the general sparse machinery needs for one prompt. The tests hold the two
against each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode.base import Encoder, normalised

_TOKEN = r"\w+|[^\w\s]"
"""Words, and single signs: they tell code and formulas from prose."""


class TfIdf(Encoder):
    """Term frequencies (1 + log), weighted by idf, capped vocabulary, projected to `dimensions`.

    Args:
        vocabulary: at most so many terms, the most frequent ones.
        dimensions: at most so many after the SVD; fewer where the prompts have less to say.
        seed: of the randomised SVD.
    """

    fitted = ("idf_V", "components_VD")
    facts = ("terms",)

    def __init__(self, vocabulary: int = 10_000, dimensions: int = 256, seed: int = 0):
        self.vocabulary, self.dimensions, self.seed = vocabulary, dimensions, seed
        self._index: dict[str, int] | None = None
        self._token = re.compile(_TOKEN)

    def vectorizer(self) -> Any:
        """scikit-learn's vectorizer with these settings."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(
            max_features=self.vocabulary, sublinear_tf=True, token_pattern=_TOKEN, lowercase=True, dtype=np.float32
        )

    def fit(self, prompts: Sequence[str]) -> TfIdf:
        """Learns vocabulary, idf and components."""
        from sklearn.decomposition import TruncatedSVD

        vectorizer = self.vectorizer()
        x_NV = vectorizer.fit_transform(prompts)
        dimensions = min(self.dimensions, min(x_NV.shape) - 1)
        self.terms = tuple(vectorizer.get_feature_names_out().tolist())
        self.idf_V = vectorizer.idf_.astype(np.float32)
        if dimensions < 1:  # one prompt, or one term: nothing to reduce
            self.components_VD = np.eye(len(self.terms), dtype=np.float32)
        else:
            with np.errstate(invalid="ignore"):  # the share of variance that is explained, where there is none
                svd = TruncatedSVD(dimensions, random_state=self.seed).fit(x_NV)
            self.components_VD = np.ascontiguousarray(svd.components_.T, dtype=np.float32)
        self._index = None
        return self

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """The rows [N, D]."""
        return normalised(np.stack([self._project(prompt) for prompt in prompts]))

    def _project(self, prompt: str) -> NDArray[np.float32]:
        if self._index is None:
            self._index = {term: n for n, term in enumerate(self.terms)}
        found = [n for n in map(self._index.get, self._token.findall(prompt.lower())) if n is not None]
        if not found:
            return np.zeros(self.components_VD.shape[1], dtype=np.float32)
        at, count = np.unique(found, return_counts=True)
        weight = (1 + np.log(count)).astype(np.float32) * self.idf_V[at]
        weight /= np.sqrt(weight @ weight)
        x_D: NDArray[np.float32] = weight @ self.components_VD[at]
        return x_D
