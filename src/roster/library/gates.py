"""Gate vectors beside an adapter: one per linear layer, as PHATGOOSE trains them.

Shape legend: D in_features of the layer.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from roster.errors import RosterError
from roster.files import write_whole
from roster.library.adapter import Adapter

GATES = "gates.safetensors"


def read_gates(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter's gate vectors [D] by module name.

    Raises:
        RosterError: no gates, gates for other layers or widths, or values that are not finite.
    """
    if adapter.path is None or not (adapter.path / GATES).is_file():
        raise RosterError(
            f"expert {adapter.name!r} has no gate vectors ({GATES}): train them with "
            "`roster build ... --router phatgoose --data FILE.jsonl`"
        )
    path = adapter.path / GATES
    try:
        gates = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RosterError(f"{str(path)!r} cannot be read: {error}") from None
    for name in sorted(gates.keys() ^ adapter.modules.keys()):
        raise RosterError(f"{str(path)!r}: the gates and the adapter differ in the layer {name!r}")
    for name, gate_D in gates.items():
        width = adapter.modules[name].A_RD.shape[1]
        if gate_D.shape != (width,) or not bool(torch.isfinite(gate_D).all()):
            raise RosterError(f"{str(path)!r}: the gate of {name!r} is not a finite vector of {width}")
    return gates


def write_gates(folder: Path, gates: dict[str, Tensor]) -> Path:
    """Writes gate vectors into an adapter's folder, whole or not at all."""
    # Copies: safetensors refuses tensors that share memory, as rows of one stacked parameter do.
    tensors = {name: gate_D.detach().cpu().clone() for name, gate_D in gates.items()}
    return write_whole(folder / GATES, save(tensors))
