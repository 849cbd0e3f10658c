"""Policy: what answers "which model for this prompt?". The seam between the routers and whoever calls models.

A policy is made by `roster lm tune`, kept in a folder, and asked by the gateway. It never calls a model itself.

Shape legend: M models.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from roster.lm.text import TextRule


@dataclass(frozen=True)
class Decision:
    """Which model to ask, and why.

    Attributes:
        model: the chosen model's name.
        reason: one clause for people, such as "cheapest above quality 0.70".
        quality: the estimated quality of its answer, in the units of the records' scores; None when not estimated.
        cost: the estimated cost of the call, in the records' currency; None when not estimated.
        delay: the estimated seconds until the answer is complete; None when not estimated.
        quality_by_model: the estimates for all M models, for reports and for retries.
        propensity: the probability with which this model was drawn; 1.0 for a deterministic policy.
        escalate_below: a cascade's threshold on the answer's own confidence in [0, 1]; None when the answer is final.
    """

    model: str
    reason: str
    quality: float | None = None
    cost: float | None = None
    delay: float | None = None
    quality_by_model: Mapping[str, float] = field(default_factory=dict)
    propensity: float = 1.0
    escalate_below: float | None = None


@runtime_checkable
class Policy(Protocol):
    """Anything that routes prompts among named models."""

    name: str

    @property
    def models(self) -> tuple[str, ...]:
        """Whom it chooses among."""
        ...

    @property
    def text(self) -> TextRule:
        """Which text of a request it wants to be asked about."""
        ...

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """Chooses a model.

        Args:
            prompt: the text of the request under the rule `text`.
            exclude: models that may not be chosen (failed, over budget); excluding all raises RosterError.
            load: requests in flight per model, for policies that weigh delay.
            max_tokens: the caller's limit on the answer, for policies that weigh cost.
            read: tokens that the models will read, where that is more than the prompt.
        """
        ...

    def feedback(self, prompt: str, decision: Decision, score: float) -> None:
        """Learns from a score in [0, 1] for the answer that a decision led to; offline policies do nothing."""
        ...

    def state(self) -> bytes:
        """What was learned online, to be kept across restarts; empty for offline policies."""
        ...

    def restore(self, state: bytes) -> None:
        """Takes back what `state` gave."""
        ...
