"""What calibration sees of one layer's experts.

Shape legend: T tokens, N sampled tokens, E experts, D model width, F expert width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

SAMPLE = 512
"""Tokens of a layer that are kept as they are, for methods that compare what experts say."""


@dataclass
class Seen:
    """Sums over the calibration tokens that an expert was given.

    Attributes:
        act: `(gate_NF, up_NF) -> NF`, what an expert does between its matrices.
        count_E: how many tokens it was given.
        gate_E: their weights, added up.
        felt_E: weight times norm of what the expert said of each.
        said_ED: what it said, added up.
        inputs_ED, gated_inputs_ED: squares of what it read; and of that times the token's weight.
        middle_EF, gated_middle_EF: the same of what goes into the down projection.
        logits_TE: of the router, for every token.
        sample_ND: what some of the tokens looked like to the experts.
    """

    act: Callable[[Tensor, Tensor], Tensor]
    count_E: Tensor
    gate_E: Tensor
    felt_E: Tensor
    said_ED: Tensor
    inputs_ED: Tensor
    gated_inputs_ED: Tensor
    middle_EF: Tensor
    gated_middle_EF: Tensor
    logits: list[Tensor] = field(default_factory=list)
    sample: list[Tensor] = field(default_factory=list)

    @classmethod
    def nothing(cls, experts: int, width: int, hidden: int, act: Callable[[Tensor, Tensor], Tensor]) -> Seen:
        """Before the first token."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        return cls(
            act,
            count_E=zeros(experts),
            gate_E=zeros(experts),
            felt_E=zeros(experts),
            said_ED=zeros(experts, width),
            inputs_ED=zeros(experts, width),
            gated_inputs_ED=zeros(experts, width),
            middle_EF=zeros(experts, hidden),
            gated_middle_EF=zeros(experts, hidden),
        )

    def expert(self, e: int, x: Tensor, weight: Tensor, middle: Tensor, out: Tensor) -> None:
        """Some tokens of one expert: what it read, their weights, its hidden units, and what it said."""
        x, weight, middle, out = (each.double() for each in (x, weight, middle, out))
        self.count_E[e] += len(x)
        self.gate_E[e] += weight.sum().cpu()
        self.felt_E[e] += (weight * out.norm(dim=-1)).sum().cpu()
        self.said_ED[e] += out.sum(0).cpu()
        for plain, gated, values in (
            (self.inputs_ED, self.gated_inputs_ED, x),
            (self.middle_EF, self.gated_middle_EF, middle),
        ):
            plain[e] += (values**2).sum(0).cpu()
            gated[e] += ((values * weight[:, None]) ** 2).sum(0).cpu()

    def tokens(self, x: Tensor, logits: Tensor, wanted: int) -> None:
        """All tokens of a step: what the router read and said; so many of them join the sample, evenly spread."""
        self.logits.append(logits.float().cpu())
        if wanted:
            at = torch.linspace(0, len(x) - 1, min(wanted, len(x))).round().long()
            self.sample.append(x[at].float().cpu())

    @property
    def logits_TE(self) -> Tensor:
        """See the class."""
        return torch.cat(self.logits)

    @property
    def sample_ND(self) -> Tensor:
        """See the class."""
        return torch.cat(self.sample)

    @property
    def saliency_E(self) -> Tensor:
        """Mean over an expert's tokens of weight times norm of what it said; 0 for one without tokens (REAP)."""
        return self.felt_E / self.count_E.clamp(min=1)
