"""What the built-in policies share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, Self

from roster.errors import RosterError, nearest
from roster.gateway.config import Model, Price, Strict
from roster.lm.policy import Decision
from roster.lm.text import TextRule


class Untrained:
    """A policy that needs no training and, unless it says otherwise, learns nothing.

    Args:
        name: what clients call it.
        models: whom it chooses among.
    """

    text: TextRule = "conversation"
    judges = False
    """Whether it judges answers itself (`confidence`), where a cascade needs no log-probabilities."""

    class Options(Strict):
        """What the config may say beside `kind`."""

    def __init__(self, name: str, models: Iterable[str]) -> None:
        self.name, self.models = name, tuple(models)

    @classmethod
    def build(cls, name: str, options: Any, known: Mapping[str, Model], base: Path) -> Self:
        """From the config's options; `known` are all models, `base` is the config's folder."""
        raise NotImplementedError

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """Chooses a model; see `roster.lm.policy.Policy`."""
        raise NotImplementedError

    def confidence(self, prompt: str, answer: str) -> float:
        """How likely an answer is right, of a policy that judges them."""
        raise NotImplementedError

    def feedback(self, prompt: str, decision: Decision, score: float) -> None:
        """Learns nothing."""

    def state(self) -> bytes:
        """Nothing is learned."""
        return b""

    def restore(self, state: bytes) -> None:
        """There is nothing to take back."""
        if state:
            raise RosterError(f"the policy {self.name!r} learns nothing, and was given something learned")

    def left(self, exclude: Set[str]) -> list[str]:
        """The models that may be chosen.

        Raises:
            RosterError: none.
        """
        left = [model for model in self.models if model not in exclude]
        if not left:
            raise RosterError(f"the policy {self.name!r} has no model left")
        return left


def prices_of(models: Iterable[str], known: Mapping[str, Model]) -> dict[str, Price]:
    """The price of each model.

    Raises:
        RosterError: the config has no such model.
    """
    for model in models:
        if model not in known:
            raise RosterError(f"there is no model {model!r}: {nearest(model, known)}")
    return {model: known[model].price for model in models}
