"""Mix: two settings of a rule and a coin. What lets a policy spend exactly a budget that lies between two settings.

The corners of a cost-quality curve are settings, its edges are mixes of the two at their ends: with a rule for the
edges, what a report shows can be deployed.
"""

from __future__ import annotations

from collections.abc import Sequence

from roster.errors import RosterError
from roster.lm.decide.base import Rule
from roster.lm.estimate.base import Estimates
from roster.lm.records import Matrix


class Mix(Rule):
    """The second setting for a share of the prompts, the first for the others.

    A rule never sees the prompt, so the coin comes from outside: `settled` gives the rule that one coin selects, and
    all steps of one answer (a cascade takes several) have to use the same. `roster.lm.offline` makes it from the text.

    Args:
        first: setting for coins of at least `share`.
        second: setting for coins below it.
        share: of the prompts that the second decides, in [0, 1].
    """

    def __init__(self, first: Rule, second: Rule, share: float):
        if not 0 <= share <= 1:
            raise RosterError(f"a mix's share lies between 0 and 1, not at {share}")
        if isinstance(first, Mix) or isinstance(second, Mix):
            raise RosterError("a mix of mixes has no one coin; mix the settings themselves")
        self.first, self.second, self.share = first, second, share

    def settled(self, coin: float) -> Rule:
        """See `Rule.settled`."""
        return self.second if coin < self.share else self.first

    def utility(self, estimates: Estimates) -> Matrix:
        """None: without a coin there is nothing to maximise."""
        raise RosterError("a mix decides by a coin per prompt: call `settled(coin)` and use the rule that it gives")

    def reason(self, estimates: Estimates, choice: int) -> str:
        """See `Rule.reason`."""
        return f"a mix, {self.share:.0%} of prompts at its second setting"

    def sweep(self, estimates: Estimates) -> Sequence[Rule]:
        """The dial of the rule that is mixed."""
        return self.first.sweep(estimates)
