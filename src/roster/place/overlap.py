"""When to send what, so that the links of a machine are busy while experts compute: FSMoE as a model of overlap.

A mixture whose experts are spread over nodes sends its rows there (all-to-all between nodes), spreads them within a
node (gather), computes, and goes the same way back. Each step's time is a line in its volume, `a + b * volume`,
measured once. Cut into `degree` chunks, the steps of different chunks overlap: three resources (the links between
nodes, those within, the processors) each do one thing at a time. `layer_time` plays that through; `plan` takes the
degree that is done first, and fills the time in which the links between nodes stand idle during a backward pass with
slices of gradients that are there already (those of later layers), instead of sending all of them at the end.

Source: Pan et al., 2025, FSMoE: A Flexible and Scalable Training System for Sparse Mixture-of-Experts Models,
arXiv:2501.10714.
Differences: the source derives the degree from closed forms by cases, over real numbers, and rounds it; here the four
degrees are played through. It partitions gradients by differential evolution; here every gap takes what fits into it,
in the order in which gradients come. How rows are really sent in chunks: `roster.dispatch.exchange.pipelined`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pydantic

from roster.errors import RosterError

DEGREES = (1, 2, 4, 8)
BETWEEN, WITHIN, COMPUTE = range(3)
_BACKWARD = 2.0
"""A backward pass computes twice what the forward pass does, and sends as much."""


class Line(pydantic.BaseModel, extra="forbid", frozen=True):
    """`start + each * volume`, in seconds; volumes in any unit, bytes or rows, that all who use it share."""

    start: float = pydantic.Field(ge=0.0)
    each: float = pydantic.Field(ge=0.0)

    def __call__(self, volume: float) -> float:
        """Seconds; none for no volume."""
        return self.start + self.each * volume if volume > 0 else 0.0

    @classmethod
    def through(cls, volumes: Sequence[float], seconds: Sequence[float]) -> Line:
        """The line of least squares through measured times, relative to them, with no part below zero."""
        x, y = np.asarray(volumes, float), np.asarray(seconds, float)
        if len(x) < 2 or len(np.unique(x)) < 2 or (y <= 0).any():
            raise RosterError("a line takes times above zero of at least two volumes")
        weighted = np.stack([np.ones_like(x), x], 1) / y[:, None]
        start, each = np.linalg.lstsq(weighted, np.ones_like(y), rcond=None)[0]
        if start < 0:
            start, each = 0.0, float((x / y).sum() / np.square(x / y).sum())
        if each < 0:
            start, each = float(len(y) / (1 / y).sum()), 0.0
        return cls(start=float(start), each=float(each))


class Lines(pydantic.BaseModel, extra="forbid", frozen=True):
    """A machine: what the all-to-all between nodes, the gather within one, experts and gradients' all-reduce take."""

    exchange: Line
    gather: Line = Line(start=0.0, each=0.0)
    experts: Line
    reduce: Line = Line(start=0.0, each=0.0)


class Layer(pydantic.BaseModel, extra="forbid", frozen=True):
    """The volumes of one mixture, of the whole batch: sent between nodes, within a node, computed, and gradients."""

    exchange: float = pydantic.Field(gt=0.0)
    gather: float = pydantic.Field(default=0.0, ge=0.0)
    experts: float = pydantic.Field(gt=0.0)
    gradients: float = pydantic.Field(default=0.0, ge=0.0)


class Task(NamedTuple):
    """What one resource does for one chunk: from when to when."""

    resource: int
    begin: float
    end: float


def play(layer: Layer, lines: Lines, degree: int, backward: bool = False) -> list[Task]:
    """Every step of every chunk of a layer, each begun as soon as its chunk and its resource are free.

    A resource that is free takes the step that has waited longest; of two that have waited as long, that of the earlier
    chunk, and of one chunk the earlier step.
    """
    if degree < 1:
        raise RosterError(f"a layer is cut into at least one chunk, not {degree}")
    times = [lines.exchange(layer.exchange / degree), lines.gather(layer.gather / degree)]
    compute = lines.experts(layer.experts / degree) * (_BACKWARD if backward else 1.0)
    steps = [(BETWEEN, times[0]), (WITHIN, times[1]), (COMPUTE, compute), (WITHIN, times[1]), (BETWEEN, times[0])]
    ready, done = [0.0] * degree, [0] * degree
    free, tasks = [0.0, 0.0, 0.0], []
    while any(each < len(steps) for each in done):
        waiting = [
            (max(ready[chunk], free[steps[done[chunk]][0]]), ready[chunk], chunk)
            for chunk in range(degree)
            if done[chunk] < len(steps)
        ]
        begin, _, chunk = min(waiting)
        resource, seconds = steps[done[chunk]]
        ready[chunk] = free[resource] = begin + seconds
        done[chunk] += 1
        if seconds:
            tasks.append(Task(resource, begin, begin + seconds))
    return tasks


def layer_time(layer: Layer, lines: Lines, degree: int, backward: bool = False) -> float:
    """Seconds of a layer that is cut into `degree` chunks."""
    return max(task.end for task in play(layer, lines, degree, backward))


@dataclass(frozen=True)
class Schedule:
    """What to do with each layer, in the order of the forward pass.

    Attributes:
        forward, backward: chunks of each layer.
        slices: gradient bytes (or whatever the volumes are) to send while each layer's backward pass runs.
        last: of gradients that are sent when all is done.
        seconds: of the whole step.
        at_the_end: of the same with all gradients sent at the end.
    """

    forward: tuple[int, ...]
    backward: tuple[int, ...]
    slices: tuple[float, ...]
    last: float
    seconds: float
    at_the_end: float

    def to_json(self) -> dict[str, Any]:
        """By name; `buckets` are what DistributedDataParallel and FSDP take as sizes, where volumes are bytes."""
        return {
            "forward": list(self.forward),
            "backward": list(self.backward),
            "buckets": [*self.slices, self.last],
            "seconds": self.seconds,
            "at_the_end": self.at_the_end,
        }


def plan(layers: Sequence[Layer], lines: Lines) -> Schedule:
    """Degrees and gradient slices for one step of training.

    Args:
        layers: in the order of the forward pass.
        lines: of the machine.
    """
    if not layers:
        raise RosterError("there is no layer to plan for")
    forward = tuple(degree_of(layer, lines) for layer in layers)
    backward = tuple(degree_of(layer, lines, backward=True) for layer in layers)
    seconds = sum(layer_time(layer, lines, degree) for layer, degree in zip(layers, forward, strict=True))
    pending, slices = 0.0, [0.0] * len(layers)
    for at in reversed(range(len(layers))):
        tasks = play(layers[at], lines, backward[at], backward=True)
        seconds += max(task.end for task in tasks)
        for gap in _gaps(tasks):
            sent = min(pending, _fits(lines.reduce, gap))
            slices[at] += sent
            pending -= sent
        pending += layers[at].gradients
    whole = sum(layer.gradients for layer in layers)
    end = seconds + lines.reduce(whole)
    seconds += lines.reduce(pending)
    return Schedule(forward, backward, tuple(slices), pending, seconds, end)


def degree_of(layer: Layer, lines: Lines, backward: bool = False) -> int:
    """The number of chunks with which a layer is done first; of several, the least."""
    return min(DEGREES, key=lambda degree: (layer_time(layer, lines, degree, backward), degree))


def read_profile(profile: Mapping[str, Any]) -> tuple[list[Layer], Lines]:
    """Layers and lines of a JSON object `{"lines": {...}, "layers": [...]}`; RosterError for anything else."""
    try:
        lines = Lines.model_validate(profile["lines"])
        return [Layer.model_validate(each) for each in profile["layers"]], lines
    except (KeyError, TypeError) as error:
        raise RosterError(f"a profile holds lines and layers: {error}") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise RosterError(f"a profile: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _gaps(tasks: Sequence[Task]) -> list[float]:
    """The times in which nothing is sent between nodes while a layer runs."""
    busy = sorted((task.begin, task.end) for task in tasks if task.resource == BETWEEN)
    starts = [begin for begin, _ in busy[1:]]
    return [start - end for start, (_, end) in zip(starts, busy[:-1], strict=True) if start > end]


def _fits(line: Line, seconds: float) -> float:
    """The volume that is sent within a time."""
    if seconds <= line.start:
        return 0.0
    return (seconds - line.start) / line.each if line.each > 0 else float("inf")
