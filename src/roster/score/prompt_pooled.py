"""Prompt-pooled score: one score per row, from the mean over its prompt; later tokens reuse it.

The route of a row is decided once, when its prompt is read, and then follows the KV cache. What counts as the
prompt: `Context.prompt_BS` where the caller says so (in training, the tokens without a label), else all tokens of
the call that starts the cache.

Shape legend: B batch rows, S tokens of this call, L tokens so far, T = B * S, D width, E experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from roster.context import Context


class PromptPooled(nn.Module):
    """`scores = inner(activation(mean over the prompt of x))`, the same for all tokens of a row.

    Args:
        inner: any score over the pooled vector; it is asked with B "tokens".
        key: under which the row's scores follow the cache; different at every site.
        activation: applied to the pooled vector.
    """

    def __init__(self, inner: nn.Module, key: str, activation: Callable[[Tensor], Tensor] = nn.Identity()):  # noqa: B008
        super().__init__()
        self.inner, self.key, self.activation = inner, key, activation

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        history = context.history
        if history is None:
            scores_BE = self._pooled(x_TD, context)
        else:
            # Every token carries its row's scores along, so that cropping or reordering the cache keeps them right.
            scores_BE = history.latest(self.key, lambda: self._pooled(x_TD, context))
            history.append(self.key, scores_BE[:, None].expand(-1, context.length, -1))
        return context.per_token(scores_BE)

    def _pooled(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores of the mean prompt token of this call, [B, E]."""
        weight_BS1 = context.prompt_mask(x_TD.device)[..., None].to(x_TD.dtype)
        x_BSD = x_TD.view(context.batch, context.length, -1)
        count_B1 = weight_BS1.sum(1).clamp_min(1.0)
        pooled_BD = (x_BSD * weight_BS1).sum(1) / count_B1
        rows = Context(context.batch, 1, task_ids_B=context.task_ids_B)
        scores_BE: Tensor = self.inner(self.activation(pooled_BD), rows).to(torch.float32)
        return scores_BE
