"""What is counted about routes: tokens, weight and entropy per expert. Pure functions, no storage.

Covers one site or a sum of sites; where routes come from and how they are joined is `trace.py`.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tally:
    """Sums over the tokens of one site, or of several: tallies add up.

    Sums are kept in float64, so that a long trace loses no small weights.
    """

    counts_E: Tensor
    """Tokens for which the expert's weight is above zero."""
    weight_E: Tensor
    """Summed weight."""
    entropy: float
    """Summed route entropy, in nats, of the tokens that have an expert."""
    routed: int
    """Tokens that have at least one expert."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.counts_E + other.counts_E,
            self.weight_E + other.weight_E,
            self.entropy + other.entropy,
            self.routed + other.routed,
        )

    @property
    def fraction_E(self) -> Tensor:
        """Each expert's share of the summed weight; all zeros where nothing was routed."""
        total = self.weight_E.sum()
        return self.weight_E / total if total > 0 else torch.zeros_like(self.weight_E)

    @property
    def mean_entropy(self) -> float:
        """Mean entropy per routed token, in nats; nan where no token has an expert."""
        return self.entropy / self.routed if self.routed else math.nan


def empty(experts: int) -> Tally:
    """The tally of no tokens at all."""
    zeros_E = torch.zeros(experts, dtype=torch.float64)
    return Tally(zeros_E.to(torch.int64), zeros_E, 0.0, 0)


def tally(gates_TE: Tensor) -> Tally:
    """Count one stretch of tokens.

    Args:
        gates_TE: combine weights; a row of zeros is a token with no expert (a pad, for one).

    Returns:
        The sums. The entropy is that of the weights divided by their sum, so that gates which do not sum to
        one are comparable; negative weights count as zero in it.
    """
    gates_TE = gates_TE.to(torch.float64)
    counts_E = (gates_TE > 0).sum(0)
    positive_TE = gates_TE.clamp(min=0)
    total_T = positive_TE.sum(-1)
    routed_T = total_T > 0
    share_RE = positive_TE[routed_T] / total_T[routed_T, None]
    entropy = -torch.special.xlogy(share_RE, share_RE).sum()
    return Tally(counts_E, gates_TE.sum(0), float(entropy), int(routed_T.sum()))
