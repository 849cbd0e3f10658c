"""Decoding by self-contrast: what a mixture says with its best experts, minus what it says with worse ones.

Equation: z = (1 + beta) log p_strong - beta log p_weak over tokens with p_strong >= alpha * max p_strong; strong is the
model as it is, weak the same weights with every token sent to its expert of another rank. Nothing is trained.
Source: Shi et al., 2024, "Unchosen Experts Can Contribute Too", arXiv:2405.14507.
Differences: none known; the weak model keeps a KV cache of its own, so a step costs two forward passes.

Shape legend: B batch rows, L tokens so far, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from roster.errors import RosterError
from roster.moe.twin import rerouted
from roster.select import Rank


class SelfContrast(transformers.LogitsProcessor):
    """A logits processor for transformers' `generate`; one object serves one call after the other.

    Args:
        model: a routed model; the one that generates.
        attention_mask: of the prompt, [B, L]; None when it has no padding.
        beta: strength of the contrast; 0 is plain decoding.
        alpha: share of the best token's probability below which a token is not plausible, in (0, 1].
        weak: the selection of the weak pass; by default the expert of rank 2.
        given: what else the model wants in every call, such as task_ids.
    """

    def __init__(
        self,
        model: Any,
        attention_mask: Tensor | None = None,
        *,
        beta: float = 0.5,
        alpha: float = 0.1,
        weak: nn.Module | None = None,
        **given: Any,
    ):
        if not beta >= 0:
            raise RosterError(f"self-contrast: beta must be at least 0, not {beta}")
        if not 0 < alpha <= 1:
            raise RosterError(f"self-contrast: alpha must be above 0 and at most 1, not {alpha}")
        select = Rank(2) if weak is None else weak
        self.weak = rerouted(model, lambda router: select)
        self.mask_BL, self.beta, self.alpha, self.given = attention_mask, beta, alpha, given
        self._cache: Any = None
        self._read_BL: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Contrasted logits [B, V] for the strong model's `scores` after `input_ids` [B, L]."""
        strong_BV = scores.float().log_softmax(1)
        weak_BV = self._weak_logits(input_ids).to(strong_BV).log_softmax(1)
        plausible_BV = strong_BV >= strong_BV.max(1, keepdim=True).values + torch.tensor(self.alpha).log()
        contrast_BV = (1 + self.beta) * strong_BV - self.beta * weak_BV
        return contrast_BV.masked_fill(~plausible_BV, -torch.inf).to(scores.dtype)

    @torch.no_grad()
    def _weak_logits(self, ids_BL: Tensor) -> Tensor:
        if not self._continues(ids_BL):
            self._cache, self._read_BL = None, None
        mask_BL = self._mask(ids_BL)
        start = 0 if self._read_BL is None else self._read_BL.shape[1]
        output = self.weak(
            input_ids=ids_BL[:, start:],
            attention_mask=mask_BL,
            position_ids=(mask_BL.cumsum(1) - 1).clamp_min(0)[:, start:],
            past_key_values=self._cache,
            use_cache=True,
            **self.given,
        )
        self._cache, self._read_BL = output.past_key_values, ids_BL
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV

    def _continues(self, ids_BL: Tensor) -> bool:
        """Whether these tokens extend the last ones; beams that changed places do not."""
        read_BL = self._read_BL
        if read_BL is None or read_BL.shape[0] != ids_BL.shape[0] or read_BL.shape[1] >= ids_BL.shape[1]:
            return False
        return torch.equal(ids_BL[:, : read_BL.shape[1]], read_BL)

    def _mask(self, ids_BL: Tensor) -> Tensor:
        whole_BL = torch.ones_like(ids_BL)
        if self.mask_BL is not None:
            # Beams and several answers per prompt repeat its rows.
            copies = ids_BL.shape[0] // self.mask_BL.shape[0]
            whole_BL[:, : self.mask_BL.shape[1]] = self.mask_BL.repeat_interleave(copies, 0)
        return whole_BL


def generate(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    beta: float = 0.5,
    alpha: float = 0.1,
    weak: nn.Module | None = None,
    **kwargs: Any,
) -> Any:
    """`model.generate` with self-contrast; see `SelfContrast` for the options, transformers for `kwargs`.

    Raises:
        RosterError: an option out of range, or a model without routers.
    """
    tasks = kwargs.get("tasks")
    given = {} if tasks is None else {"task_ids": model.task_ids(tasks)}
    contrast = SelfContrast(model, attention_mask, beta=beta, alpha=alpha, weak=weak, **given)
    processors = transformers.LogitsProcessorList([*kwargs.pop("logits_processor", []), contrast])
    return model.generate(input_ids, attention_mask=attention_mask, logits_processor=processors, **kwargs)
