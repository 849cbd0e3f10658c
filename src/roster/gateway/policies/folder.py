"""folder: what `roster lm tune` saved."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Self

from roster.gateway.config import Model, Strict
from roster.gateway.policies.base import Untrained
from roster.lm.policy import Decision, Policy


class Folder(Untrained):
    """A saved policy under the name that the config gives it.

    Args:
        name: what clients call it.
        saved: the policy.
    """

    class Options(Strict):
        """`path`: the policy's folder, relative to the config file."""

        path: str

    def __init__(self, name: str, saved: Policy) -> None:
        super().__init__(name, saved.models)
        self.saved = saved

    @classmethod
    def build(cls, name: str, options: Any, known: Mapping[str, Model], base: Path) -> Self:
        """Reads the folder."""
        from roster.lm.offline import load_policy

        return cls(name, load_policy(base / options.path))

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
    ) -> Decision:
        """As the saved policy does."""
        return self.saved.decide(prompt, exclude=exclude, load=load, max_tokens=max_tokens)

    def feedback(self, prompt: str, decision: Decision, score: float) -> None:
        """As the saved policy does."""
        self.saved.feedback(prompt, decision, score)

    def state(self) -> bytes:
        """As the saved policy does."""
        return self.saved.state()

    def restore(self, state: bytes) -> None:
        """As the saved policy does."""
        self.saved.restore(state)
