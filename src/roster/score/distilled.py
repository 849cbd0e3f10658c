"""Distilled score: a light router over token ids learns what the score of the hidden states decides, and then decides
in its place (Dai et al., 2022, StableMoE, arXiv:2204.08396).

Shape legend: T tokens, D width, E experts, V tokens of the vocabulary, P width of the light router.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.errors import RosterError


class Distilled(nn.Module):
    """Stage one: `scores = inner(x)`, while `light = table[token id] V^T` learns its argmax by cross-entropy.

    Stage two: the light router is frozen and alone decides: `scores` are the inner ones for its choice and minus
    infinity for all others, so that any selection takes its choice with a weight that is still learned.

    Args:
        inner: the score that is distilled.
        vocab_size, num_experts, hidden: V, E and P.
        until: share of the training after which stage two begins; 0 begins with it.
        distill: weight of the cross-entropy.
        key: under which the loss is collected; different at every site.
    """

    frozen: Tensor

    def __init__(
        self,
        inner: nn.Module,
        vocab_size: int,
        num_experts: int,
        hidden: int = 32,
        until: float = 0.1,
        distill: float = 0.01,
        key: str = "distilled",
    ):
        super().__init__()
        if not 0.0 <= until <= 1.0:
            raise RosterError(f"a distilled score changes its stage within the training, not at until={until}")
        self.inner, self.until, self.distill, self.key = inner, until, distill, key
        self.table_VP = nn.Parameter(torch.randn(vocab_size, hidden) * hidden**-0.5)
        self.weight_EP = nn.Parameter(torch.randn(num_experts, hidden))
        self.register_buffer("frozen", torch.tensor(until == 0.0))
        self._freeze(until == 0.0)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        if context.input_ids_BS is None:
            raise RosterError("a distilled router reads token ids, but the model was called with embeddings")
        scores_TE = self.inner(x_TD, context)
        light_TE = self.table_VP[context.input_ids_BS.reshape(-1).to(x_TD.device)] @ self.weight_EP.T
        if self.training and self.weight_EP.requires_grad:
            missed_T = F.cross_entropy(light_TE.float(), scores_TE.argmax(1), reduction="none")
            context.add_loss(self.key, self.distill * over_tokens(missed_T, context))
        chosen_TE = F.one_hot(light_TE.argmax(1), light_TE.shape[1]).bool()
        barred_TE: Tensor = scores_TE.masked_fill(self.frozen & ~chosen_TE, -torch.inf)
        return barred_TE

    def advance(self, progress: float) -> None:
        """Freezes the light router when its time has come."""
        if progress >= self.until:
            self.frozen.fill_(True)
            self._freeze(True)

    def _freeze(self, freeze: bool) -> None:
        self.table_VP.requires_grad_(not freeze)
        self.weight_EP.requires_grad_(not freeze)
