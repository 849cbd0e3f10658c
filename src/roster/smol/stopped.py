"""A training that was stopped goes on where it was: parameters, the optimizer's state and the losses, every so often.

One folder, swapped as a whole; it is taken away when the training has ended. What it was a training of is written
beside it: another one's state is not taken up.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roster.saving import writing
from roster.tensors import StoredTensors, write_tensors

EVERY = 50
"""Steps between two states."""
_NOTE = "stopped.json"


class Stopped:
    """What is kept of a training until it ends.

    Args:
        folder: where to.
        what: JSON-able; everything that the steps depend on.
    """

    def __init__(self, folder: Path, what: Any) -> None:
        self.folder, self.what = folder, json.loads(json.dumps(what))

    def take_up(self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> list[float]:
        """Puts back what was kept.

        Returns:
            The losses of the steps that were made; none: begin.
        """
        note = self.folder / _NOTE
        if not note.is_file():
            return []
        told = json.loads(note.read_text(encoding="utf-8"))
        if told["what"] != self.what:
            return []
        stored = StoredTensors(self.folder, "state")
        with torch.no_grad():
            for number, each in enumerate(parameters):
                each.copy_(stored[f"{number}.value"])
        state: dict[int, dict[str, Tensor]] = {number: {} for number in range(len(parameters))}
        for name in stored:
            place, _, part = name.partition(".")
            if part != "value":
                state[int(place)][part] = stored[name]
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        losses: list[float] = told["losses"]
        return losses

    def keep(self, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer, losses: Sequence[float]) -> None:
        """Writes down how far it is."""
        tensors = {f"{number}.value": each.detach() for number, each in enumerate(parameters)}
        for number, parts in optimizer.state_dict()["state"].items():
            tensors |= {f"{number}.{part}": each for part, each in parts.items()}
        with writing(self.folder) as folder:
            write_tensors(tensors, folder, "state")
            (folder / _NOTE).write_text(json.dumps({"what": self.what, "losses": list(losses)}), encoding="utf-8")

    def end(self) -> None:
        """The training has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)
