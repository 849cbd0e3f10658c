"""Training PHATGOOSE's gate vectors: one expert at a time, on its own data, everything else frozen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from transformers import PreTrainedModel

from roster.adapters.attach import attach
from roster.adapters.site import routed_linears
from roster.errors import RosterError
from roster.library import Library
from roster.library.gates import GATES, write_gates
from roster.recipes.phatgoose import gate_training
from roster.routed.becoming import detach
from roster.train.data import Row
from roster.train.fit import Settings, fit


def train_gates(
    base: PreTrainedModel, library: Library, rows: Sequence[Row], tokenizer: Any, scratch: Path, settings: Settings
) -> dict[str, dict[str, Any]]:
    """Trains and writes the gates of every expert that has none yet, beside its adapter.

    Args:
        base: the plain base; comes back plain.
        library: the experts, on disk.
        rows: data of all experts; each learns from the rows that name its card's task.
        tokenizer: of the base, or a `Rendering` of it.
        scratch: for checkpoints; an expert whose gates are written is not trained again.
        settings: for each expert.

    Returns:
        The training record of each expert that was trained.
    """
    missing = [name for name in library.names if not _has_gates(library, name)]
    shares = {name: [row for row in rows if row.task == library[name].card.task] for name in missing}
    for name, share in shares.items():
        if not share:
            raise RosterError(
                f"no row of the data names the task {library[name].card.task!r} of expert {name!r}, whose gates need it"
            )
    records = {}
    for name, share in shares.items():
        gates, records[name] = _gates_of(base, library, name, share, tokenizer, scratch / name, settings)
        write_gates(_path(library, name), gates)
    return records


def _has_gates(library: Library, name: str) -> bool:
    return (_path(library, name) / GATES).is_file()


def _path(library: Library, name: str) -> Path:
    path = library[name].path
    if path is None:
        raise RosterError(f"expert {name!r} is not on disk: gates are written beside its adapter")
    return path


def _gates_of(
    base: PreTrainedModel,
    library: Library,
    name: str,
    rows: Sequence[Row],
    tokenizer: Any,
    scratch: Path,
    settings: Settings,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    alone = Library({name: library[name]})
    model = attach(base, alone, gate_training(), recipe="phatgoose", tokenizer=tokenizer)
    try:
        record = fit(model, rows, tokenizer, scratch, settings)
        return {
            site: cast(Any, child.router).score.weight_ED[0].detach().clone() for site, child in routed_linears(model)
        }, record
    finally:
        detach(model)
