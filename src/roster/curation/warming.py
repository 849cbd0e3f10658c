"""A short training of a LoRA before data are scored, with what Adam knows at the end of each round.

A small loop instead of transformers' `Trainer`, as Adam's moments are needed by parameter and no pickle is written. A
round that is finished is kept, and an interrupted warm-up goes on after it to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from roster.files import write_whole
from roster.train.data import Encoded, collate
from roster.train.expert import Lesson, adapt

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Adam's."""


@dataclass(frozen=True)
class Stage:
    """A LoRA after one round of its warm-up.

    Attributes:
        values: of its parameters by name.
        avg, avg_sq: Adam's moments of them.
        rate: mean learning rate of the round.
    """

    values: dict[str, Tensor]
    avg: dict[str, Tensor]
    avg_sq: dict[str, Tensor]
    rate: float

    def wear(self, adapted: Any) -> None:
        """Gives a model with the same LoRA these values."""
        for name, parameter in learned(adapted).items():
            parameter.data.copy_(self.values[name])


def learned(adapted: Any) -> dict[str, torch.nn.Parameter]:
    """The LoRA's parameters by name, in the model's order."""
    return {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}


def warm_up(
    model: Any, data: Encoded, rows: Sequence[int], lesson: Lesson, pad: int, scratch: Path
) -> tuple[Any, list[Stage]]:
    """(the base with a LoRA, that LoRA after each round).

    Args:
        model: the plain base; `unload()` of what comes back makes it plain again.
        data: rows as tokens.
        rows: places of those to learn from.
        lesson: rank, targets, rounds (epochs), batch size, learning rate (falls evenly to zero), seed.
        pad: fills up rows.
        scratch: where rounds are kept.
    """
    adapted = adapt(model, lesson)
    parameters = learned(adapted)
    optimizer = torch.optim.Adam(list(parameters.values()), lr=lesson.learning_rate, betas=BETAS, eps=EPSILON)
    per_round = -(-len(rows) // lesson.batch_size)
    stages: list[Stage] = []
    for number in range(lesson.epochs):
        file = scratch / f"checkpoint-round-{number}.safetensors"
        if not file.is_file():
            if stages:
                _take_up(stages[-1], adapted, optimizer, parameters, number * per_round)
            rate = _learn(adapted, optimizer, data, rows, lesson, pad, number)
            write_whole(file, _bytes(parameters, optimizer, rate))
        stages.append(_read(file))
    adapted.eval()
    return adapted, stages


def _learn(
    adapted: Any, optimizer: torch.optim.Adam, data: Encoded, rows: Sequence[int], lesson: Lesson, pad: int, number: int
) -> float:
    """One round; the mean of its learning rates."""
    order = list(rows)
    Random(lesson.seed * 1000 + number).shuffle(order)
    adapted.train()
    per_round = -(-len(order) // lesson.batch_size)
    rates = []
    for step in range(per_round):
        left = 1 - (number * per_round + step) / (lesson.epochs * per_round)
        optimizer.param_groups[0]["lr"] = lesson.learning_rate * left
        rates.append(lesson.learning_rate * left)
        some = [data.items[at] for at in order[step * lesson.batch_size : (step + 1) * lesson.batch_size]]
        batch = {key: each.to(adapted.device) for key, each in collate(some, pad).items()}
        optimizer.zero_grad()
        adapted(**batch).loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return sum(rates) / len(rates)


def _take_up(
    stage: Stage, adapted: Any, optimizer: torch.optim.Adam, parameters: dict[str, torch.nn.Parameter], steps: int
) -> None:
    stage.wear(adapted)
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(steps)),
            "exp_avg": stage.avg[name].clone().to(parameter),
            "exp_avg_sq": stage.avg_sq[name].clone().to(parameter),
        }


def _bytes(parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Adam, rate: float) -> bytes:
    tensors = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        for kind, tensor in (("value", parameter), ("avg", state["exp_avg"]), ("avg_sq", state["exp_avg_sq"])):
            tensors[f"{kind} {name}"] = tensor.detach().cpu().contiguous()
    return save(tensors, metadata={"rate": repr(rate)})


def _read(file: Path) -> Stage:
    kinds: dict[str, dict[str, Tensor]] = {"value": {}, "avg": {}, "avg_sq": {}}
    with safe_open(file, framework="pt") as opened:
        for key in opened.keys():  # noqa: SIM118
            kind, _, name = key.partition(" ")
            kinds[kind][name] = opened.get_tensor(key)
        rate = float(opened.metadata()["rate"])
    return Stage(kinds["value"], kinds["avg"], kinds["avg_sq"], rate)
