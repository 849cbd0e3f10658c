"""Training at test time, without labels: what the model is sure of is taken for true (Lee et al., 2024, BECoTTA,
arXiv:2402.08712; Wang et al., 2022, CoTTA, arXiv:2203.13591).

Shape legend: N predictions, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.errors import RosterError


class AtTestTime:
    """Adapts what a model trains while it answers.

    An answer counts where its probability is above `threshold` and not below what the model said before any adaptation;
    the loss is the cross-entropy of the model with its own such answers. After every step each trained weight goes back
    to what it was at first with the chance `restore`, so that errors do not add up.

    Args:
        model: returns `logits` [..., C]; only its parameters with gradients move.
        source: the same model as it was at first, for its confidence; None asks nobody.
        rate: Adam's.
        threshold: of a probability.
        restore: chance that a weight goes back.
        seed: of what goes back.
    """

    def __init__(
        self,
        model: nn.Module,
        source: nn.Module | None = None,
        rate: float = 6e-7,
        threshold: float = 0.69,
        restore: float = 0.01,
        seed: int = 0,
    ):
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not self.trained:
            raise RosterError("nothing of this model trains, so nothing of it can be adapted")
        self.model, self.source, self.threshold, self.restore = model, source, threshold, restore
        self.first = [parameter.detach().clone() for parameter in self.trained]
        self.optimiser = torch.optim.Adam(self.trained, lr=rate)
        self.drawn = torch.Generator().manual_seed(seed)

    def step(self, mask: Tensor | None = None, **inputs: Any) -> Tensor:
        """The model's logits for a batch, by which it is adapted afterwards.

        Args:
            mask: True for predictions that count, shaped as the logits without their last axis.
            inputs: of the model.
        """
        logits: Tensor = self.model(**inputs).logits
        sure_N, answer_N = logits.detach().float().softmax(-1).max(-1)
        counts_N = sure_N > self.threshold
        if self.source is not None:
            with torch.no_grad():
                counts_N &= sure_N >= self.source(**inputs).logits.float().softmax(-1).max(-1).values
        if mask is not None:
            counts_N &= mask.bool()
        if bool(counts_N.any()):
            self.optimiser.zero_grad()
            F.cross_entropy(logits[counts_N].float(), answer_N[counts_N]).backward()
            self.optimiser.step()
            self._restore()
        return logits.detach()

    @torch.no_grad()
    def _restore(self) -> None:
        for parameter, first in zip(self.trained, self.first, strict=True):
            back = torch.rand(parameter.shape, generator=self.drawn).to(parameter.device) < self.restore
            parameter.copy_(torch.where(back, first, parameter))
