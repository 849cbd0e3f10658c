"""MergeME without training: whole models answer, weighed by how well each knows the prompt.

Equation: w = softmax over the K models with the least perplexity of 1 / PPL_i(prompt), fixed for the answer; logits =
sum_i w_i logits_i. It costs one more pass of every model over the prompt, and then K models for every token.

Source: Zhou et al. 2025, arXiv 2502.00997, read second-hand. What is added up (logits here) is not said there.

Shape legend: B rows, S tokens, V words, N models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from roster.errors import RosterError


class PerplexityEnsemble(nn.Module):
    """Models of one vocabulary as one.

    Args:
        models: causal language models of transformers.
        top_k: how many answer.

    Raises:
        RosterError: no models, more to answer than there are, or different vocabularies.
    """

    def __init__(self, models: Sequence[nn.Module], top_k: int = 2) -> None:
        super().__init__()
        if not 1 <= top_k <= len(models):
            raise RosterError(f"top_k={top_k} of {len(models)} models: it must be from 1 to their number")
        sizes = {int(each.config.get_text_config().vocab_size) for each in models}  # type: ignore[operator,union-attr]
        if len(sizes) > 1:
            raise RosterError(f"models of different vocabularies ({sorted(sizes)} words) cannot be added up")
        self.models, self.top_k = nn.ModuleList(models), top_k

    @torch.no_grad()
    def weights(self, ids_BS: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """How much each model says after a prompt of at least two tokens, [B, N]; rows sum to 1, K of them above 0."""
        mask_BS = torch.ones_like(ids_BS) if mask_BS is None else mask_BS
        if ids_BS.shape[1] < 2 or int(mask_BS.sum(1).min()) < 2:
            raise RosterError("the perplexity of a prompt needs two tokens of it")
        nats_BN = torch.stack([_nats(each, ids_BS, mask_BS) for each in self.models], dim=1)
        inverse_BN = (-nats_BN).exp()
        best_BK = inverse_BN.topk(self.top_k, dim=1).indices
        chosen_BN = torch.full_like(inverse_BN, -torch.inf).scatter(1, best_BK, inverse_BN.gather(1, best_BK))
        return chosen_BN.softmax(1)

    def forward(self, ids_BS: Tensor, weights_BN: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """Logits [B, S, V] by weights; a model that no row has chosen is not asked."""
        total_BSV: Tensor | None = None
        for number, each in enumerate(self.models):
            weight_B = weights_BN[:, number]
            if not bool(weight_B.any()):
                continue
            logits_BSV = (
                each(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False).logits * weight_B[:, None, None]
            )
            total_BSV = logits_BSV if total_BSV is None else total_BSV + logits_BSV
        assert total_BSV is not None  # weights sum to 1
        return total_BSV

    @torch.no_grad()
    def generate(self, ids_S: Tensor, count: int, stop: int | None = None) -> Tensor:
        """A prompt [S] and its likeliest continuation, by at most `count` tokens, or up to `stop`; by caches."""
        weight_N = self.weights(ids_S[None])[0]
        asked: list[tuple[Any, Tensor]] = [(m, w) for m, w in zip(self.models, weight_N, strict=True) if float(w) > 0]
        caches: list[Any] = [None] * len(asked)
        found, new = ids_S, ids_S[None]
        for _ in range(count):
            logits_V = torch.zeros(())
            for number, (model, weight) in enumerate(asked):
                out = model(input_ids=new, past_key_values=caches[number], use_cache=True)
                caches[number] = out.past_key_values
                logits_V = logits_V + weight * out.logits[0, -1]
            new = logits_V.argmax().view(1, 1)
            found = torch.cat([found, new[0]])
            if stop is not None and int(new) == stop:
                break
        return found


def _nats(model: nn.Module, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """Mean loss of the next token of each row, [B]."""
    logits_BSV = model(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False).logits[:, :-1].float()
    loss_BS = cross_entropy(logits_BSV.flatten(0, 1), ids_BS[:, 1:].flatten(), reduction="none").view(len(ids_BS), -1)
    real_BS = (mask_BS[:, 1:] * mask_BS[:, :-1]).float()
    return (loss_BS * real_BS).sum(1) / real_BS.sum(1)
