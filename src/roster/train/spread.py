"""transformers' `Trainer` for a model that is spread over processes: checkpoints are shards that any number can read.

Beside the model's own tensors a checkpoint keeps those of the optimiser in the same shards, the schedule as JSON, and
each process's random state; nothing is pickled.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from transformers import Trainer

from roster.errors import RosterError
from roster.moe.shards import read_shards, stored_beside, write_shards
from roster.processes import is_first, wait_for_all
from roster.train.trainer import RoutedTrainer

SCHEDULE = "schedule.json"
_OPTIMIZER = "optimizer."


def is_sharded(model: Any) -> bool:
    """Whether no process holds the whole model."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


class SpreadTrainer(RoutedTrainer):
    """Saves and reloads shards, and leaves the model where it lies."""

    def __init__(self, model: Any, **kwargs: Any):
        if not hasattr(Trainer, "_sync_replicated_trainable_parameters"):
            raise RosterError("to train a model in shards, transformers must be of version 5.23 or later")
        # So says a model that transformers itself has sharded while loading: its Trainer then wraps and moves nothing.
        model._is_distributed_loading_by_transformers = True
        super().__init__(model=model, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        if is_first():
            shutil.rmtree(folder, ignore_errors=True)  # what a killed run had begun
            folder.mkdir(parents=True)
        wait_for_all()
        write_shards(self.model, folder, _named(self.model, self._optimizer))
        save_file({"cpu": torch.get_rng_state()}, _random(folder))
        assert self.lr_scheduler is not None, "who saves has trained"
        if is_first():
            (folder / SCHEDULE).write_text(json.dumps(self.lr_scheduler.state_dict()), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        read_shards(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        _fill(self.model, self._optimizer, Path(checkpoint))
        schedule = json.loads((Path(checkpoint) / SCHEDULE).read_text(encoding="utf-8"))
        assert self.lr_scheduler is not None, "it is made before it is loaded"
        self.lr_scheduler.load_state_dict(schedule)
        for group, rate in zip(self._optimizer.param_groups, schedule["_last_lr"], strict=True):
            group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Of as many processes as there were; another number begins with the seed."""
        if checkpoint is None or len(list(Path(checkpoint).glob("random-*"))) != distributed.get_world_size():
            return
        torch.set_rng_state(load_file(_random(Path(checkpoint)))["cpu"])

    @property
    def _optimizer(self) -> Any:
        """torch's own, which accelerate has wrapped."""
        return getattr(self.optimizer, "optimizer", self.optimizer)


def _random(folder: Path) -> Path:
    return folder / f"random-{distributed.get_rank()}.safetensors"


def _named(model: Any, optimizer: Any) -> dict[str, Tensor]:
    """The optimiser's tensors, by the names of what they belong to."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{_OPTIMIZER}{names[parameter]}.{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def _fill(model: Any, optimizer: Any, folder: Path) -> None:
    parameters = dict(model.named_parameters())
    found, places = stored_beside(folder, _OPTIMIZER), {}
    for name, tensor in found.items():
        owner, _, key = name.removeprefix(_OPTIMIZER).rpartition(".")
        parameter = parameters[owner]
        # Moments lie as their parameter does; a count of steps is a number that everybody keeps.
        found[name] = torch.zeros_like(parameter, dtype=tensor.dtype) if tensor.shape == parameter.shape else tensor
        places[name] = owner, key
    read_shards(model, folder, found)
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    index = {parameter: at for at, parameter in enumerate(order)}
    state: dict[int, dict[str, Tensor]] = {}
    for name, (owner, key) in places.items():
        state.setdefault(index[parameters[owner]], {})[key] = found[name]
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
