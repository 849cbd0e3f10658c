"""cascade: ask the first model, and the next only where the answer's own confidence is low.

The confidence is the mean probability of the answer's tokens, so every model but the last must return
log-probabilities. Source of the idea: L. Chen, M. Zaharia, J. Zou, "FrugalGPT" (2023), arXiv 2305.05176, whose scorer
is trained; this one needs no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from roster.errors import RosterError
from roster.gateway.config import Model, Strict
from roster.gateway.policies.base import Untrained
from roster.lm.policy import Decision


class Cascade(Untrained):
    """Models from cheap to dear.

    Args:
        name: what clients call it.
        steps: whom to ask, in this order.
        escalate_below: the confidence in [0, 1] under which the next is asked.
        tool_calls: how an answer is judged that calls tools and has no log-probabilities: valid (its calls must name a
            tool that was offered and give its required arguments), accept or escalate.
    """

    class Options(Strict):
        """`steps`, `escalate_below` and `tool_calls`."""

        steps: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
        escalate_below: Annotated[float, Field(ge=0, le=1)]
        tool_calls: Literal["valid", "accept", "escalate"] = "valid"

    def __init__(self, name: str, steps: tuple[str, ...], escalate_below: float, tool_calls: str = "valid") -> None:
        super().__init__(name, steps)
        self.escalate_below, self.tool_calls = escalate_below, tool_calls

    @classmethod
    def build(cls, name: str, options: Any, known: Mapping[str, Model], base: Path) -> Self:
        """From the config's options.

        Raises:
            RosterError: a model that is not the last returns no log-probabilities.
        """
        for model in options.steps[:-1]:
            if model in known and not known[model].logprobs:
                raise RosterError(f"{model!r} returns no log-probabilities, which only the last step can do without")
        return cls(name, options.steps, options.escalate_below, options.tool_calls)

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """The first step that is left; final when it is the last."""
        chosen, *later = self.left(exclude)
        step = f"step {self.models.index(chosen) + 1} of {len(self.models)}"
        return Decision(chosen, step, escalate_below=self.escalate_below if later else None)
