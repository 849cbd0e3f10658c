"""How sure an answer is, for cascades whose models give no log-probabilities.

Shape legend: N prompts, M models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from roster.lm.decide import CascadeRule
from roster.lm.part import Part
from roster.lm.records import Matrix, Records


@dataclass(frozen=True)
class Sureness:
    """Of every recorded answer.

    Attributes:
        value_NM: in [0, 1].
        check_NM: what it costs to find out, in the records' currency; None for nothing.
    """

    value_NM: Matrix
    check_NM: Matrix | None = None


class Judge(Part):
    """Says how sure answers are; learns that, and which cascades are worth having, from recorded ones.

    Attributes:
        serves: whether it can judge a live answer from its text (`confidence`), as a gateway needs it.
    """

    serves = False

    def fit(self, records: Records) -> Judge:
        """Learns from answers with known scores; returns itself."""
        raise NotImplementedError

    def of(self, records: Records) -> Sureness:
        """Of recorded answers."""
        raise NotImplementedError

    def cascades(self, records: Records) -> Sequence[CascadeRule]:
        """Those worth having on training prompts, from frugal to generous.

        Raises:
            RosterError: too few prompts have what it takes.
        """
        raise NotImplementedError

    def confidence(self, prompts: Sequence[str], answers: Sequence[str]) -> Matrix:
        """How sure each live answer is, [N]; only of a judge that `serves`."""
        raise NotImplementedError
