"""LoRA experts some of which read a graph over the tokens between their two factors, as relational graph convolutions
do (Schlichtkrull et al., 2017, R-GCN, arXiv:1703.06103).

Shape legend: T tokens, E experts, Q relations, P rank of every expert, R all ranks together, I in_features,
O out_features, L links of one relation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.errors import RosterError
from roster.experts.low_rank import LowRankExperts
from roster.route import AnyRoute

Links = Sequence[tuple[Tensor, Tensor]]
"""Per relation: (token that reads [L], token that is read [L])."""


class GraphExperts(LowRankExperts):
    """`y_t += sum_e g_e s_e B_e (A_e x_t + sum_q V_eq mean over the links t <- u of relation q of A_e x_u)`, the inner
    sum over the relations that expert e reads. V begins at zero: then an expert is the LoRA that it was.

    Args:
        factors: as of `LowRankExperts`, all of one rank.
        reads: per expert, the relations that it reads, as numbers below Q.
        relations: Q.
        links: what tells the links of a call, from its context.
        trains: whether factors and V get gradients.
    """

    reads_context = True
    reads_EQ11: Tensor
    links: Callable[[Context], Links]

    def __init__(
        self,
        factors: Sequence[tuple[Tensor, Tensor, float] | None],
        reads: Sequence[Collection[int]],
        relations: int,
        links: Callable[[Context], Links],
        trains: bool = True,
    ):
        super().__init__(factors, "updates", trains)
        rank = self.rank
        if rank is None:
            raise RosterError(f"experts that read graphs need one rank for all, not {self.ranks}")
        table = [[[[float(q in each)]] for q in range(relations)] for each in reads]
        self.register_buffer("reads_EQ11", torch.tensor(table), persistent=False)
        self.relation_EQPP = nn.Parameter(torch.zeros(len(self.ranks), relations, rank, rank), requires_grad=trains)
        self.links = links

    def forward(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute, context: Context | None = None) -> Tensor:
        """Adds the experts' update to the base layer's output [T, O]; without a context there are no links."""
        dtype, E = self.computes_in(x_TI), self.num_experts
        middle_TEP = F.linear(x_TI.to(dtype), self.A_RI.to(dtype)).view(len(x_TI), E, -1)
        told_TEP = middle_TEP
        relation_EQPP = (self.relation_EQPP * self.reads_EQ11).to(dtype)
        for q, (reader_L, read_L) in enumerate([] if context is None else self.links(context)):
            heard_TEP = torch.zeros_like(middle_TEP).index_add(0, reader_L, middle_TEP[read_L])
            count_T11 = middle_TEP.new_zeros(len(x_TI), 1, 1).index_add(
                0, reader_L, middle_TEP.new_ones(len(read_L), 1, 1)
            )
            mean_TEP = heard_TEP / count_T11.clamp_min(1.0)
            told_TEP = told_TEP + torch.einsum("tep,eop->teo", mean_TEP, relation_EQPP[:, q])
        gate_TE = route.dense().to(device=x_TI.device, dtype=dtype) * self.scale_E.to(dtype)
        return (y_TO + (told_TEP * gate_TE[..., None]).flatten(1) @ self.B_RO.to(dtype)).to(y_TO.dtype)
