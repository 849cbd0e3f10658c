"""A front's training, as a source of the tensors that it leaves: kept as safetensors, taken up after a kill.

What is held meanwhile is said beforehand: weights, gradients and Adam's moments of all that is trained (16 bytes a
weight), and for one ray at a time the composed weights and their gradients (8 bytes a weight of one model).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roster.header import Spec
from roster.merge.fronts import Rays, Task, train
from roster.merge.learned import Progress
from roster.weights import Kernel
from roster.weights.kept import Kept
from roster.weights.moments import restore, state_of
from roster.weights.source import Checkpoint
from roster.weights.whole import check_memory

FILE = "front.json"
"""What a folder tells of the training: settings, and the loss of every step."""
_LOSSES = "losses"


@dataclass(frozen=True)
class Session:
    """What trains: see `roster.merge.fronts.train`.

    Attributes:
        front: a module; its parameters' names are those of the tensors that are kept.
        tasks, rays, steps: of the training.
        optimizer: torch's Adam.
        options: more of `train`'s arguments.
    """

    front: Any
    tasks: Sequence[Task]
    rays: Rays
    optimizer: torch.optim.Optimizer
    steps: int
    options: Mapping[str, Any]


class Trained:
    """The tensors of a front after its training, float32, by the names of its parameters.

    Args:
        name: what trains them.
        file: where they are kept.
        depends: on all that they depend on, for a key.
        shapes: of all parameters.
        composed: weights of one composed model.
        begin: loads what is trained; called once memory is known to be there.
    """

    def __init__(
        self,
        name: str,
        file: Path,
        depends: object,
        shapes: Mapping[str, tuple[int, ...]],
        composed: int,
        begin: Callable[[], Session],
    ) -> None:
        self.name = f"what {name} trained"
        self._title, self._begin = name, begin
        self._specs = {each: Spec(torch.float32, shape) for each, shape in shapes.items()}
        self.memory = 16 * sum(spec.numel for spec in self._specs.values()) + 8 * composed
        self._kept = Kept(file, hashlib.sha256(repr(depends).encode()).hexdigest())
        self._opened: Checkpoint | None = None

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Of all parameters."""
        return self._specs

    def fingerprint(self) -> str:
        """Of what they depend on."""
        return self._kept.key

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """See `roster.weights.Source.read`."""
        if self._opened is None:
            assert self._kept.whole() is not None, "train first"
            self._opened = Checkpoint(self._kept.path, self.name)
        return self._opened.read(name, start, stop)

    def losses(self) -> list[float]:
        """Of every step."""
        figures = self._kept.whole()
        assert figures is not None, "train first"
        found: list[float] = json.loads(figures[_LOSSES])
        return found

    def train(self, progress: Progress | None = None) -> None:
        """Trains, or takes up where a killed run stopped; nothing where it is done.

        Raises:
            RosterError: too little memory.
        """
        if self._kept.whole() is not None:
            return
        check_memory(self.memory, self._title)
        session = self._begin()
        told = self._take_up(session)

        def after(what: str, done: int, count: int) -> None:
            state = state_of(dict(session.front.named_parameters()), session.optimizer)
            self._kept.save({**state, _LOSSES: torch.tensor(told, dtype=torch.float64)}, done)
            if progress is not None:
                progress(what, done, count)

        train(
            session.front, session.tasks, session.rays, session.optimizer, session.steps, **session.options,
            told=told, progress=after,
        )  # fmt: skip
        found = {name: each.data for name, each in session.front.named_parameters()}
        self._kept.finish(found, {_LOSSES: json.dumps(told)})

    def _take_up(self, session: Session) -> list[float]:
        """Puts what a killed run had trained into the session; the losses of its steps."""
        kept, done = self._kept.half()
        if not done:
            return []
        restore(dict(session.front.named_parameters()), session.optimizer, kept, done)
        losses: list[float] = kept[_LOSSES].tolist()
        return losses


@dataclass
class Last(Kernel):
    """The last operand: what was trained, behind the models that it was trained from."""

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """The piece itself."""
        return x[-1]
