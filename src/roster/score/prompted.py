"""Prompted: a learned vector of the row's task is added to what another score reads (after Zhao et al., 2023,
JiuZhang 2.0, arXiv:2306.11027).

Shape legend: T tokens, D width, E experts, N known tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError


class Prompted(nn.Module):
    """`score(x + prompt[task])`.

    Args:
        score: reads tokens of width D.
        num_tasks: N.
        width: D.
        std: standard deviation of the initial prompts.
    """

    def __init__(self, score: nn.Module, num_tasks: int, width: int, std: float = 0.02):
        super().__init__()
        self.score = score
        self.prompt_ND = nn.Parameter(torch.randn(num_tasks, width) * std)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        if context.task_ids_B is None:
            raise RosterError("this router needs to know the task of every row: pass task_ids= or tasks=")
        prompt_BD = self.prompt_ND[context.task_ids_B.to(x_TD.device)].to(x_TD.dtype)
        scores_TE: Tensor = self.score(x_TD + context.per_token(prompt_BD), context)
        return scores_TE
