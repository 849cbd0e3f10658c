"""What is asked of the engine, and what comes back: a job, and the events that its tokens, its end or its failure are.

Jobs are made and cancelled on the server's thread, and worked on by the engine's; `emit` is what crosses over.

Shape legend: E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from roster.serve.sampling import Sampling

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Routed:
    """Who is on duty, told when the prompt has been read.

    Attributes:
        weights: of each expert that has any, by name, the heaviest first: the mean over the prompt's tokens and layers.
    """

    weights: dict[str, float]


@dataclass(frozen=True)
class Token:
    """One more token of the answer."""

    id: int


@dataclass(frozen=True)
class Ended:
    """The answer is complete."""

    finish: Finish


@dataclass(frozen=True)
class Failed:
    """There will be no more of it."""

    error: Exception


Event = Routed | Token | Ended | Failed


@dataclass(eq=False)
class Job:
    """One prompt to be answered.

    Attributes:
        ids: of the prompt.
        gates_E: who serves, and with what weight; None: the router decides.
        limit: the most tokens of the answer, at least 1.
        ends: tokens that end it, and are not part of it.
        sampling: how tokens are chosen.
        emit: takes what comes; called on the engine's thread.
        cancelled: set by whoever has lost interest.
    """

    ids: list[int]
    gates_E: Tensor | None
    limit: int
    ends: frozenset[int]
    sampling: Sampling
    emit: Callable[[Event], None]
    cancelled: bool = False
    written: list[int] = field(default_factory=list)
