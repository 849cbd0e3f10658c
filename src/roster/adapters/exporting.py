"""Writing mixtures that decide by a prompt's cluster as plain PEFT adapters, one per cluster, for engines that serve
adapters by name.

Shape legend: C clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roster.adapters.merging import merge_routes
from roster.adapters.nearness import Nearness
from roster.context import DECISION, Context
from roster.errors import RosterError
from roster.library import Card, make_adapter, write_adapter
from roster.routed.deciding import decided


def export_clusters(model: Any, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Writes what each cluster's prompts are served by, exactly.

    Args:
        model: a mixture of the recipe `mocle`.
        folder: where to; the adapters are called "cluster 00", "cluster 01", ...
        overwrite: replace adapters that are there.

    Returns:
        The adapters' folders, in the order of the clusters.

    Raises:
        RosterError: a recipe that does not decide by clusters alone.
    """
    head = model.roster.head
    if not isinstance(head, Nearness) or head.name != "vectors_CD" or head.weigh != "nearest":
        raise RosterError(f"recipe {model.roster.recipe!r} does not serve a prompt by its cluster alone (mocle does)")
    paths = []
    for cluster in range(len(head.vectors_ND)):
        decision_12K = torch.tensor([[[float(cluster)], [1.0]]], device=model.device)
        merged = merge_routes(model, _call(decision_12K))
        if merged is None:
            raise RosterError(f"cluster {cluster} is served by the base alone: there is nothing to export")
        name = f"cluster {cluster:02}"
        card = Card(task=name, description=f"{model.roster.recipe}: prompts of cluster {cluster}")
        adapter = make_adapter(name, merged.adapter.modules, model.roster.base_name or "", card)
        paths.append(write_adapter(folder, adapter, overwrite=overwrite))
    return paths


def clusters_of(model: Any, *prompts: Any) -> list[int]:
    """The cluster of each prompt: a text, or a chat as a list of messages."""
    found = model.inputs(*prompts)
    ids_BS, mask_BS = found["input_ids"], found["attention_mask"]
    B, S = ids_BS.shape
    context = Context(B, S, mask_BS=mask_BS.bool(), input_ids_BS=ids_BS)
    decision_B2K: Tensor = decided(model, context, {"input_ids": ids_BS})
    return decision_B2K[:, 1].argmax(1).tolist()


def _call(decision_12K: Tensor) -> Callable[[], Context]:
    return lambda: Context(1, 1, memory={DECISION: decision_12K})
