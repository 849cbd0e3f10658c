"""AutoMix's cascades: pairs of a small and a large model, behind the small one's recorded checks of its own answers.

For every pair a meta-verifier learns what each share of agreeing checks is worth (`roster.lm.verification`); the dial
is its reward, over all pairs. Every check is paid, whatever comes of it.

Source: Aggarwal et al., 2023, "AutoMix: Automatically Mixing Language Models", arXiv:2310.12963, where the pair is
given and one model is small.

Shape legend: N prompts, M models, V steps of a share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.decide import Cascade, SelfChecked
from roster.lm.decide.cascade import InTurn
from roster.lm.frugal import frontier
from roster.lm.judging import without_gaps
from roster.lm.records import Matrix, Records
from roster.lm.sureness import Judge, Sureness
from roster.lm.verification import MetaVerifier, dial


class SelfChecks(Judge):
    """The share of a model's own checks that agreed with its answer, as the log has it.

    Args:
        bins: steps of the share.
        good: score from which an answer is right.
    """

    def __init__(self, bins: int = 8, good: float = 0.5):
        self.bins, self.good = bins, good

    def fit(self, records: Records) -> SelfChecks:
        """Nothing: the checks are in the log."""
        return self

    def of(self, records: Records) -> Sureness:
        """See `Judge.of`; NaN of models that did not check themselves."""
        if records.checked_NM is None or records.check_cost_NM is None:
            raise RosterError(f"records {records.name!r} have no checks by the models of their own answers")
        return Sureness(records.checked_NM, records.check_cost_NM)

    def cascades(self, records: Records) -> Sequence[InTurn]:
        """See `Judge.cascades`: single models, and pairs at every reward at which some step changes sides."""
        records = records.rows(without_gaps(records))
        if not len(records):
            raise RosterError(f"records {records.name!r}: no prompt has every score and cost")
        sure = self.of(records)
        cost_M = records.cost_NM.mean(0)
        made: list[InTurn] = [Cascade((name,)) for name in records.models]
        played = list(zip(records.score_NM.mean(0).tolist(), cost_M.tolist(), strict=True))
        for small in self_checking(records):
            for large in np.flatnonzero(cost_M > cost_M[small]).tolist():
                for asks_V in self._asks(records, small, large):
                    rule = SelfChecked((records.models[small], records.models[large]), asks_V.tolist())
                    made.append(rule)
                    played.append(_played(rule, (small, large), records, sure))
        quality_C, cost_C = np.array(played).T
        return [made[c] for c in frontier(cost_C, quality_C)]

    def _asks(self, records: Records, small: int, large: int) -> Sequence[NDArray[np.bool_]]:
        """For each setting of one pair's dial, which steps ask for the large model, [V]."""
        assert records.checked_NM is not None
        score_NM = records.score_NM
        verifier = MetaVerifier(self.bins, self.good).fit(
            records.checked_NM[:, small], score_NM[:, small], score_NM[:, large]
        )
        return [verifier.escalates(reward) for reward in dial(verifier)]


def self_checking(records: Records) -> Sequence[int]:
    """The columns of models that checked every answer of theirs, and whose checks have a cost."""
    if records.checked_NM is None or records.check_cost_NM is None:
        return []
    known_NM = np.isfinite(records.checked_NM) & np.isfinite(records.check_cost_NM)
    return [int(m) for m in np.flatnonzero(known_NM.all(0))]


def _played(rule: SelfChecked, pair: tuple[int, int], records: Records, sure: Sureness) -> tuple[float, float]:
    """(mean score, mean cost of all calls and checks)."""
    assert sure.check_NM is not None
    small, large = pair
    asked_N = rule.asks_on(0, sure.value_NM[:, small])
    score_N: Matrix = np.where(asked_N, records.score_NM[:, large], records.score_NM[:, small])
    cost_N: Matrix = records.cost_NM[:, small] + sure.check_NM[:, small] + asked_N * records.cost_NM[:, large]
    return float(score_N.mean()), float(cost_N.mean())
