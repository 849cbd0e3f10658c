"""SwiGLU feed-forward experts (Shazeer, 2020, arXiv:2002.05202), all of one width.

Shape legend: E experts, D model width, F expert width.
"""

from __future__ import annotations

from roster.experts.gated import Gated


class SwiGLU(Gated):
    """`(silu(x G_e) * (x U_e)) V_e` for the rows of expert e.

    Args:
        num_experts: E.
        width: D.
        hidden: F.
    """

    def __init__(self, num_experts: int, width: int, hidden: int):
        super().__init__(num_experts, width, hidden)
