"""Vectors of a collection's prompts, computed once and kept on disk: every rung reads the same ones.

What an encoder learns, it learns from the learning prompts of the fold. Estimators that fit their encoder anew (an
ensemble's inner folds) get the same rows: vectors know no scores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.lm.encode import Encoder, MiniLM, TfIdf, WithFigures


class Kept(Encoder):
    """Rows of a fixed set of prompts.

    Args:
        prompts: all prompts of the collection.
        x_ND: their rows.
    """

    def __init__(self, prompts: Sequence[str], x_ND: NDArray[np.float32]):
        self.prompts, self.x_ND = prompts, x_ND
        self._at = {prompt: n for n, prompt in enumerate(prompts)}

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        return self  # nothing in it changes, and it is large

    def fit(self, prompts: Sequence[str]) -> Kept:
        """Nothing: the rows are there."""
        return self

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """The rows [N, D]."""
        return self.x_ND[[self._at[prompt] for prompt in prompts]]


def vectors(name: str, prompts: Sequence[str], learn: Sequence[str], folder: Path) -> Kept:
    """Rows of all prompts, of an encoder that has learned from some.

    Args:
        name: "tfidf", "minilm", "both", or one of them with "+figures".
        prompts: all of the collection.
        learn: those that the fold learns from.
        folder: where rows are kept.
    """
    base, _, more = name.partition("+")
    parts = ("minilm", "tfidf") if base == "both" else (base,)
    x_ND = np.hstack([_rows(part, prompts, learn, folder) for part in parts]) / np.sqrt(len(parts))
    kept = Kept(prompts, np.asarray(x_ND, dtype=np.float32))
    return Kept(prompts, WithFigures(encoder=kept).fit(learn).encode(prompts)) if more else kept


def _rows(name: str, prompts: Sequence[str], learn: Sequence[str], folder: Path) -> NDArray[np.float32]:
    if name == "tfidf":
        return _stored(folder, "tfidf", [*prompts, "", *learn], lambda: TfIdf().fit(learn).encode(prompts))
    x_ND = _stored(folder, "minilm", list(prompts), lambda: MiniLM().fit(learn).encode(prompts))
    learned = set(learn)
    return turned(x_ND, x_ND[[n for n, prompt in enumerate(prompts) if prompt in learned]])


def turned(x_ND: NDArray[np.float32], learn_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows in the principal axes of some of them: lengths and angles stay, the first dimensions say most."""
    _, _, axes_DD = np.linalg.svd(learn_ND - learn_ND.mean(0), full_matrices=True)
    return np.asarray(x_ND @ axes_DD.T, dtype=np.float32)


def _stored(folder: Path, name: str, key: list[str], make: Any) -> NDArray[np.float32]:
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = folder / f"{name}-{digest}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, make())
        partial.rename(path)
    return np.asarray(np.load(path))
