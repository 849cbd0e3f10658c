"""Who is on duty for each token of a prompt and its answer, for the page's heat map; and why, where `auto` decided.

Shape legend: S tokens, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roster.api import trace
from roster.auto.explain import explain
from roster.auto.judge import Judge

_TOLD = 5
"""Places of the ranking."""


def traced(model: Any, prompt: str, ids: list[int], answer: list[int], gates_E: Tensor | None) -> dict[str, Any]:
    """The tokens as texts, the experts' names, and the weights [S, E], each the mean over all places that route.

    Args:
        model: the routed model.
        prompt: as a text.
        ids: of the prompt.
        answer: of the answer.
        gates_E: who serves; None: the router decides.
    """
    ids_1S = torch.tensor([ids + answer], device=model.device)
    known: dict[str, Any] = {}
    if gates_E is None:
        known["prompt_mask"] = (torch.arange(ids_1S.shape[1], device=model.device) < len(ids))[None]
    else:
        known["gates"] = gates_E[None]
    with trace(model) as routes, torch.inference_mode():
        model(input_ids=ids_1S, use_cache=False, **known)
    weights_SE = routes.gates()
    return _why(model, prompt, gates_E) | {
        "tokens": routes.texts(),
        "prompt_tokens": len(ids),
        "experts": list(model.roster.experts),
        "weights": [[round(float(each), 4) for each in row_E] for row_E in weights_SE],
    }


def _why(model: Any, prompt: str, gates_E: Tensor | None) -> dict[str, Any]:
    if gates_E is not None or not isinstance(model.roster.head, Judge):
        return {}
    found = explain(model, prompt)
    return {
        "why": found.why,
        "ranking": [[each.expert, round(each.probability, 4)] for each in found.ranking[:_TOLD]],
        "nearest": [[expert, example, round(cosine, 4)] for expert, example, cosine in found.nearest],
    }
