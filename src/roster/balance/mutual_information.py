"""Mutual information between domains and experts, which is to be large: each domain finds experts of its own (Lee et
al., 2024, BECoTTA, arXiv:2402.08712; Chen et al., 2023, Mod-Squad, arXiv:2212.08066).

Shape legend: T tokens, E experts, N domains.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.errors import RosterError
from roster.route import AnyRoute, scores_of


class MutualInformation(nn.Module):
    """`-coefficient * sum_ne P(n, e) log(P(n, e) / (P(n) P(e)))`, P(n, e) the mean over the real tokens of domain n of
    softmax(scores), differentiable in the scores. The domain of a row is its task.

    Args:
        domains: N.
        coefficient: weight of the loss.
    """

    def __init__(self, domains: int, coefficient: float = 5e-4):
        super().__init__()
        self.domains, self.coefficient = domains, coefficient

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        if context.task_ids_B is None:
            raise RosterError("this router needs to know the task of every row: pass task_ids= or tasks=")
        prob_TE = scores_of(route).float().softmax(1)
        domain_TN = context.per_token(F.one_hot(context.task_ids_B.to(prob_TE.device), self.domains)).to(prob_TE)
        if context.mask_T is not None:
            domain_TN = domain_TN * context.mask_T.to(prob_TE)[:, None]
        joint_NE = domain_TN.T @ prob_TE / domain_TN.sum().clamp_min(1.0)
        apart_NE = joint_NE.sum(1, keepdim=True) * joint_NE.sum(0, keepdim=True)
        ratio_NE = torch.where(joint_NE > 0, joint_NE, 1.0).log() - torch.where(apart_NE > 0, apart_NE, 1.0).log()
        return -self.coefficient * (joint_NE * ratio_NE).sum()
