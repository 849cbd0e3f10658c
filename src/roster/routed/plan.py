"""Plan: what a routed model must know of its method, whichever kind of expert it routes among.

The two kinds of plan stand beside what they plan: `roster.adapters.mixing.Mixing` for adapters on a base,
`roster.moe.layout.Layout` for feed-forward blocks. A recipe composes to one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A composition of parts, as far as the model around it is concerned.

    Attributes:
        trains: which of "router", "experts" and "base" (everything else of the model) the source trains.
        constant: whether the route is the same for every token ("always"), for every token of a task ("per task"),
            or depends on the tokens (None); the first two can be merged.
        remembers: whether a router keeps something across decode steps.
        reads_prompt: whether a router pools over the prompt, so that every row must have one.
        tasks: which tasks rows may name, for methods that route by task: "given" by whoever builds the model, or read
            off the experts' library by a function; None when rows need no task.
        keeps_cache: whether a turn of a chat that goes to other experts than the turn before keeps their keys and
            values; only where prompts are decided on.
    """

    trains: frozenset[str] = frozenset()
    constant: Literal["always", "per task"] | None = None
    remembers: bool = False
    reads_prompt: bool = False
    tasks: Literal["given"] | Callable[[Any], Sequence[str]] | None = None
    keeps_cache: bool = False

    @property
    def routes_by_task(self) -> bool:
        """Whether rows must name a task."""
        return self.tasks is not None

    @property
    def two_passes(self) -> bool:
        """Whether the base runs once more, alone, before the answer is computed."""
        return False

    @property
    def decides(self) -> bool:
        """Whether the base reads each prompt once more, alone, and its rows are decided on by that."""
        return False
