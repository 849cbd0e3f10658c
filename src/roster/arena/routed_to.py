"""Who answers a prompt: the expert that has the most weight over its tokens and all routed layers.

Shape legend: E experts, K their tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from roster.api import trace
from roster.prompts import Rendering
from roster.train.data import Row

_BATCH = 16
_DECIDED = 1e-4
"""By so much of a token's weight the first must be ahead of the second."""


@torch.inference_mode()
def routed_to(
    model: Any,
    rendering: Rendering,
    rows: Sequence[Row],
    tasks: Sequence[str | None] | None,
    alike: Sequence[str | None],
) -> list[str | None]:
    """The expert of each row's prompt; None where the base alone answers, or no expert is ahead of the others.

    Args:
        model: a routed causal model.
        rendering: how prompts become tokens.
        rows: what is asked.
        tasks: of each row, for recipes that are told it.
        alike: the task of each expert; experts of one task count as one, and the strongest of them is named.
    """
    names = model.roster.experts
    kinds = list(dict.fromkeys(alike))
    of_kind_EK = torch.tensor([[float(kind == each) for kind in kinds] for each in alike])
    found: list[str | None] = []
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        given: dict[str, Any] = rendering.inputs([row.asked for row in batch])
        given = {name: each.to(model.device) for name, each in given.items()}
        given["prompt_mask"] = given["attention_mask"].bool()
        given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp_min(0)
        if tasks is not None:
            given["task_ids"] = model.task_ids(tasks[start : start + len(batch)])
        with trace(model) as routes:
            model(**given, use_cache=False)
        for row in range(len(batch)):
            if not routes.sites:
                found.append(None)
                continue
            mean_E = routes.gates(None, row)[routes.mask(row)].mean(0)
            best = (mean_E @ of_kind_EK).topk(min(2, len(kinds)))
            ahead = float(best.values[0] - best.values[1:].sum())
            strongest = int((mean_E * of_kind_EK[:, best.indices[0]]).argmax())
            found.append(names[strongest] if ahead > _DECIDED else None)
    return found
