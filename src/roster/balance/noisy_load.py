"""Importance and load, the losses of the first sparsely gated mixtures (Shazeer et al., 2017, arXiv:1701.06538,
section 4 and appendix A).

Shape legend: T tokens, E experts, K chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.route import AnyRoute, scores_of
from roster.score.noisy import Noisy


class Importance(nn.Module):
    """`coefficient * CV(sum over tokens of the weights of each expert)^2`; CV is deviation over mean.

    Args:
        coefficient: weight of the loss.
    """

    def __init__(self, coefficient: float = 0.1):
        super().__init__()
        self.coefficient = coefficient

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        return self.coefficient * variation(over_tokens(route.dense().float(), context))


class NoisyLoad(nn.Module):
    """`coefficient * CV(sum over tokens of the chance that the expert is chosen when its own noise is drawn anew)^2`.

    The chance is smooth in the scores, which the load is not. In training only: there is no noise at evaluation.

    Args:
        key: that of the `Noisy` score, whose latest draw is read.
        k: experts per token.
        coefficient: weight of the loss.
    """

    def __init__(self, key: str, k: int, coefficient: float = 0.1):
        super().__init__()
        self.key, self.k, self.coefficient = key, k, coefficient

    def forward(self, route: AnyRoute, context: Context) -> Tensor | None:
        """A scalar, or nothing at evaluation."""
        if not self.training:
            return None
        clean_TE, std_TE = (context.memory[f"{self.key}/{part}"] for part in Noisy.PARTS)
        chance_TE = chosen_chance(scores_of(route).float(), clean_TE.float(), std_TE.float(), self.k)
        return self.coefficient * variation(over_tokens(chance_TE, context))


def variation(value_E: Tensor) -> Tensor:
    """Squared coefficient of variation; zero when all are equal."""
    return value_E.var(correction=0) / value_E.mean().square().clamp_min(1e-10)


def chosen_chance(noisy_TE: Tensor, clean_TE: Tensor, std_TE: Tensor, k: int) -> Tensor:
    """The chance that each expert is among the k best, given the noise of all others, [T, E]."""
    E = noisy_TE.shape[1]
    if k >= E:
        return torch.ones_like(noisy_TE)
    top_TK = noisy_TE.topk(k + 1, dim=1).values
    # To be chosen, an expert that is among the k best must beat the one after them, another the last of them.
    among_TE = noisy_TE >= top_TK[:, k - 1 : k]
    rival_TE = torch.where(among_TE, top_TK[:, k : k + 1], top_TK[:, k - 1 : k])
    chance_TE: Tensor = torch.special.ndtr((clean_TE - rival_TE) / std_TE)
    return chance_TE
