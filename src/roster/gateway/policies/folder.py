"""folder: what `roster lm tune` saved, asked about the text that it was trained on and at the gateway's own prices."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from roster.gateway.config import Model, Strict
from roster.gateway.policies.base import Untrained, prices_of
from roster.lm.policy import Decision

if TYPE_CHECKING:
    from roster.lm.offline import OfflinePolicy

log = logging.getLogger("roster.gateway")


class Folder(Untrained):
    """A saved policy under the name that the config gives it.

    Args:
        name: what clients call it.
        saved: the policy.
    """

    class Options(Strict):
        """`path`: the policy's folder, relative to the config file."""

        path: str

    def __init__(self, name: str, saved: OfflinePolicy) -> None:
        super().__init__(name, saved.models)
        self.saved, self.text, self.judges = saved, saved.text, saved.judges

    @classmethod
    def build(cls, name: str, options: Any, known: Mapping[str, Model], base: Path) -> Self:
        """Reads the folder."""
        from roster.lm.offline import load_policy
        from roster.lm.prices import Price

        saved = load_policy(base / options.path)
        prices = prices_of(saved.models, known)
        if not saved.knows_lengths and not saved.judges:  # a judged cascade weighs no costs
            log.warning(
                "policies.%s: the log that it was tuned on says nothing of the lengths of answers, so that it decides "
                "by the costs in that log and not by the prices here",
                name,
            )
        return cls(name, saved.at_prices({model: Price(each.input, each.output) for model, each in prices.items()}))

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """As the saved policy does."""
        return self.saved.decide(prompt, exclude=exclude, load=load, max_tokens=max_tokens, read=read)

    def confidence(self, prompt: str, answer: str) -> float:
        """As the saved policy judges."""
        return self.saved.confidence(prompt, answer)

    def feedback(self, prompt: str, decision: Decision, score: float) -> None:
        """As the saved policy does."""
        self.saved.feedback(prompt, decision, score)

    def state(self) -> bytes:
        """As the saved policy does."""
        return self.saved.state()

    def restore(self, state: bytes) -> None:
        """As the saved policy does."""
        self.saved.restore(state)
