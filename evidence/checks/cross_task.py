"""Task-level mixture for cross-task skills: learned routes group tasks by skill, and a new task is learned from few
examples better than by a dense model.

Toy: 12 tasks of 3 skills (random functions); a task is its skill plus a slight change of its own. One block, 3
experts. A thirteenth task of one of the skills comes with 8 examples: the mixture learns its vector only; the dense
model, which reads a learned vector per task beside the input, learns the vector, or everything, whichever is better
on the test. The mixture reads as many ones there, so that both blocks are equally wide and a row costs the same.

This is the third try. In the first the noise of the routes did not fade, and experts were trained on rows of tasks that
are not theirs to the end. In the second the mixture's blocks were narrower, and had nothing that could serve as a bias:
the dense model was better on the known tasks as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from evidence.checks.blocks import Batch, Net, error, teacher, train
from roster.context import Context

FEATURES, OUT, SKILLS, KNOWN, HIDDEN, FEW, VECTOR = 12, 6, 3, 12, 24, 8, 8
STEPS, NEW_STEPS = 2000, 200
TASKS = tuple(f"task {index}" for index in range(KNOWN + 1))


class Reader(nn.Module):
    """A net that reads some numbers of the task beside the input.

    Args:
        vector_NV: what it reads of each task; a parameter is learned.
        recipe, options: of its block.
    """

    def __init__(self, vector_NV: Tensor, recipe: str, options: Mapping[str, Any] | None = None):
        super().__init__()
        self.vector_NV = vector_NV
        self.net = Net(recipe, options, width=FEATURES + VECTOR, hidden=HIDDEN, out=OUT, tasks=TASKS)

    def forward(self, x_BD: Tensor, task_B: Tensor, context: Context | None = None) -> Tensor:
        """Outputs [B, O]."""
        return self.net(torch.cat([x_BD, self.vector_NV[task_B]], 1), task_B, context)


def check(seed: int) -> dict[str, float]:
    """How well routes follow skills, and relative test errors."""
    torch.manual_seed(seed)
    skill_N = torch.arange(KNOWN + 1) % SKILLS
    skills, own = [teacher(FEATURES, OUT) for _ in range(SKILLS)], [teacher(FEATURES, OUT) for _ in TASKS]

    def wanted(x_BF: Tensor, task: int) -> Tensor:
        return skills[skill_N[task]](x_BF) + 0.15 * own[task](x_BF)

    def rows_of(task: int, x_BF: Tensor) -> Batch:
        return x_BF, wanted(x_BF, task), torch.full((len(x_BF),), task)

    def draw() -> Batch:
        parts = [rows_of(task, torch.randn(8, FEATURES)) for task in range(KNOWN)]
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    few, test = rows_of(KNOWN, torch.randn(FEW, FEATURES)), rows_of(KNOWN, torch.randn(2000, FEATURES))
    mixture = train(Reader(torch.ones(len(TASKS), VECTOR), "cross-task-moe", {"num_experts": SKILLS}), draw, STEPS)
    router = mixture.net.blocks[0].router
    route = router(torch.empty(KNOWN, 0), Context(KNOWN, 1, task_ids_B=torch.arange(KNOWN)))
    known = [rows_of(task, torch.randn(500, FEATURES)) for task in range(KNOWN)]
    dense = train(Reader(nn.Parameter(torch.randn(len(TASKS), VECTOR)), "dense-active"), draw, STEPS)
    figures = {
        "adjusted Rand index of routes and skills": adjusted_rand_score(skill_N[:KNOWN], route.dense().argmax(1)),
        "mixture: known tasks": float(np.mean([error(mixture, batch) for batch in known])),
        "dense: known tasks": float(np.mean([error(dense, batch) for batch in known])),
    }
    train(mixture, lambda: few, NEW_STEPS, rate=5e-2, parameters=[router.score.vectors_GV])
    figures["mixture: new task"] = error(mixture, test)
    start = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    tuned = []
    for parameters, rate in (([dense.vector_NV], 5e-2), (list(dense.parameters()), 3e-3)):
        dense.load_state_dict(start)
        tuned.append(error(train(dense, lambda: few, NEW_STEPS, rate, parameters), test))
    figures["dense: new task"] = min(tuned)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """Mean index of at least 0.5, and the new task's error below the dense model's in the mean and at most seeds."""
    index = np.mean([each["adjusted Rand index of routes and skills"] for each in figures])
    gain = [each["dense: new task"] - each["mixture: new task"] for each in figures]
    return bool(index >= 0.5 and np.mean(gain) > 0 and np.mean([each > 0 for each in gain]) > 0.5)
