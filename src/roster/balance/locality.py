"""Locality loss: tokens are drawn to experts on their own node (Li et al., 2024, LocMoE, arXiv:2401.13920).

Shape legend: B batch rows, T tokens, E experts, N nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.errors import RosterError
from roster.route import AnyRoute, scores_of


class Locality(nn.Module):
    """`coefficient * mean over tokens of KL(local || p) = -coefficient * mean log(p on the token's own node)`.

    `local` are the routing probabilities restricted to the node's experts and made to sum to 1, which is the nearest
    fully local distribution. Rows of a batch lie on the nodes in equal runs, as data parallelism puts them there.

    Args:
        nodes: the node of each expert, numbered from 0.
        coefficient: weight of the loss.
    """

    node_E: Tensor

    def __init__(self, nodes: Sequence[int], coefficient: float = 0.01):
        super().__init__()
        if len(set(nodes)) != max(nodes) + 1:
            raise RosterError(f"locality: every node needs an expert, and nodes are numbered from 0: {list(nodes)}")
        self.coefficient, self.num_nodes = coefficient, max(nodes) + 1
        self.register_buffer("node_E", torch.tensor(nodes))

    def local_TE(self, context: Context) -> Tensor:
        """Whether each expert is on the token's node, bool [T, E]."""
        row_B = torch.arange(context.batch, device=self.node_E.device)
        node_B1 = (row_B * self.num_nodes // context.batch)[:, None]
        return context.per_token(node_B1 == self.node_E)

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        log_TE = scores_of(route).float().log_softmax(1)
        local_T = torch.logsumexp(log_TE.masked_fill(~self.local_TE(context), -torch.inf), dim=1)
        return -self.coefficient * over_tokens(local_T, context)
