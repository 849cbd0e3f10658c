"""Rows whose prompts are like the target's, by the base's hidden states: the yardstick that LESS is held against.

Equation: cos(h(z) - c, h(t) - c), h the states that `roster find --by states` compares, c their mean over the pool; the
    mean over the target rows of a task, and the best task.
Source: representation-based selection as in Zhang et al., 2018, "The Unreasonable Effectiveness of Deep Features as a
    Perceptual Metric", arXiv:1801.03924, and Hanawa et al., 2021, "Evaluation of Similarity-based Explanations",
    arXiv:2006.04528; the pooling is roster's own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.curation.ground import Ground
from roster.errors import RosterError
from roster.suiting.states import States


def near(ground: Ground) -> Tensor:
    """The likeness [N] of each row to the target; RosterError without one."""
    if not ground.target:
        raise RosterError("near chooses for a target: give prompts like those that the expert will get (--target)")
    states = States(ground.model, ground.rendering)
    prompts = [row.asked for row in ground.pool]
    pool_NF = ground.blockwise("states", lambda start, stop: torch.from_numpy(states(prompts[start:stop])))
    target_MF = torch.from_numpy(states([row.asked for row in ground.target]))
    center_F = pool_NF.mean(0)
    likeness_NM = F.normalize(pool_NF - center_F, dim=1) @ F.normalize(target_MF - center_F, dim=1).T
    return ground.nearest_group(likeness_NM)
