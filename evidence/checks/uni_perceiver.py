"""Uni-Perceiver-MoE: routing by attributes removes the interference between conflicting tasks, and a task's experts
merge into one block with the same outputs.

Toy: two tasks want opposite functions of the same inputs, of which a code of the task is part. Interference is the
cosine between the two tasks' gradients of the experts, the mean over the training: below zero, one task undoes what the
other learns. Baselines: a dense block, and the same mixture routed by token.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evidence.checks.blocks import Batch, Net, error, teacher, train
from roster.context import Context
from roster.moe.extract import sub_block

FEATURES, CODE, OUT, HIDDEN, STEPS, EVERY = 12, 4, 6, 32, 600, 20
TASKS = ("plus", "minus")
MODELS = {
    "attribute": ("uni-perceiver-moe", {}),
    "token": ("uni-perceiver-moe", {"condition": "token"}),
    "dense": ("dense-active", {}),
}


def check(seed: int) -> dict[str, float]:
    """Cosines of gradients, relative test errors, and how far the merged block is from the mixture."""
    torch.manual_seed(seed)
    function, code_NC = teacher(FEATURES, OUT), torch.randn(2, CODE)

    def rows_of(task: int, rows: int) -> Batch:
        x_BF, task_B = torch.randn(rows, FEATURES), torch.full((rows,), task)
        return torch.cat([x_BF, code_NC[task_B]], 1), function(x_BF) * (1 - 2 * task), task_B

    def both(rows: int) -> Batch:
        return tuple(torch.cat(each) for each in zip(rows_of(0, rows), rows_of(1, rows), strict=True))

    figures = {}
    for name, (recipe, options) in MODELS.items():
        torch.manual_seed(seed + 100)
        net = Net(recipe, options, width=FEATURES + CODE, hidden=HIDDEN, out=OUT, tasks=TASKS)
        cosines = []
        for _ in range(STEPS // EVERY):
            train(net, lambda: both(32), EVERY)
            cosines.append(_cosine(net, rows_of(0, 256), rows_of(1, 256)))
        figures[f"{name}: cosine of gradients"] = float(np.mean(cosines))
        figures[f"{name}: error"] = error(net, both(1000))
        if name == "attribute":
            figures["difference of merged blocks"] = _merged_difference(net, rows_of)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed the cosine by attribute is above both others, and merged blocks differ by less than 1e-5."""
    return all(
        each["attribute: cosine of gradients"]
        > max(each[f"{name}: cosine of gradients"] for name in ("token", "dense"))
        and each["difference of merged blocks"] < 1e-5
        for each in figures
    )


def _cosine(net: Net, *batches: Batch) -> float:
    """Between the gradients of two tasks, over the experts."""
    flat = []
    for x_BD, y_BO, task_B in batches:
        net.zero_grad()
        F.mse_loss(net(x_BD, task_B), y_BO).backward()
        experts = net.blocks[0].experts
        flat.append(torch.cat([p.grad.flatten() for p in experts.parameters()]))
    net.zero_grad()
    return float(F.cosine_similarity(*flat, dim=0))


@torch.no_grad()
def _merged_difference(net: Net, rows_of) -> float:
    worst = 0.0
    for task in range(len(TASKS)):
        x_BD, _, task_B = rows_of(task, 500)
        context = Context(len(x_BD), 1, task_ids_B=task_B)
        merged = sub_block(net.blocks[0], task)
        difference: Tensor = merged(x_BD[:, None], context) - net.blocks[0](x_BD[:, None], context)
        worst = max(worst, float(difference.abs().max()))
    return worst
