"""probe: the adapter whose examples a prompt resembles, or the base; `roster deploy` writes what it reads.

It is asked about what the user said last. A model that failed is replaced by the base, whose answer is no worse than
another adapter's; the reason says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from roster.errors import RosterError, nearest
from roster.gateway.config import Model, Strict
from roster.gateway.policies.base import Untrained
from roster.lm.policy import Decision
from roster.lm.text import TextRule

if TYPE_CHECKING:
    from roster.auto.probe import Choice
    from roster.auto.probe import Probe as Saved


class Probe(Untrained):
    """A saved probe under the name that the config gives it.

    Args:
        name: what clients call it.
        saved: the probe; the models are called like its experts.
        base: the model that answers what is nobody's.
    """

    text: TextRule = "last-user"

    class Options(Strict):
        """`path`: the probe's folder, relative to the config file; `base`: the model that answers what is nobody's."""

        path: str
        base: str = "base"

    def __init__(self, name: str, saved: Saved, base: str) -> None:
        super().__init__(name, (base, *saved.experts))
        self.saved, self.base = saved, base

    @classmethod
    def build(cls, name: str, options: Any, known: Mapping[str, Model], base: Path) -> Self:
        """Reads the folder, and decides once, so that the first request does not wait for what is made then.

        Raises:
            RosterError: no probe there, or an expert that is no model of the config.
        """
        from roster.auto.probe import Probe as Saved

        saved = Saved.load(base / options.path)
        missing = next((each for each in (options.base, *saved.experts) if each not in known), None)
        if missing is not None:
            raise RosterError(f"the probe chooses {missing!r}, which is no model here: {nearest(missing, known)}")
        saved.decide("Hello")
        return cls(name, saved, options.base)

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """The adapter whose examples the prompt resembles, or the base."""
        return self.decide_on(self.look([prompt])[0], exclude)

    def look(self, prompts: Sequence[str]) -> list[Choice]:
        """Whose examples each of several prompts resembles: one pass over all (`roster.gateway.together`)."""
        return self.saved.decide_all(prompts)

    def decide_on(self, choice: Choice, exclude: Set[str]) -> Decision:
        """The model that is chosen, or the base in its place."""
        wanted = choice.expert or self.base
        if wanted not in exclude:
            return Decision(wanted, choice.why)
        if self.base in exclude:
            raise RosterError(f"the policy {self.name!r} has no model left")
        return Decision(self.base, f"stands in for {wanted}, {choice.why}")
