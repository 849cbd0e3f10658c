"""What routers are judged on: prompts for which every model's score and cost are known, or can be estimated.

Logs have gaps. Costs that nobody logged at all leave quality alone to be judged. Where most prompts were answered by
one model, or none by all of them, the gaps are filled with doubly robust estimates (`roster.lm.offpolicy`). Elsewhere a
prompt with a gap is left out. The notes say what was done, and how many prompts were left out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.offpolicy.counterfactual import counterfactual, one_each
from roster.lm.records import Records

NO_COSTS = "no costs were logged: quality alone is judged, as if every call were free"


def has_costs(records: Records) -> bool:
    """Whether any cost is known."""
    return bool(np.isfinite(records.cost_NM).any())


def free_of_charge(records: Records) -> Records:
    """The records with every cost 0, where none is known; otherwise as they are."""
    if has_costs(records):
        return records
    return replace(records, cost_NM=np.zeros_like(records.cost_NM), notes=(*records.notes, NO_COSTS))


def judged(part: Records, rest: Records, name: str, seed: int = 0) -> Records:
    """One part of some records, without gaps.

    Args:
        part: what routers are judged on.
        rest: what may be learned from beside it.
        name: of the part, for messages.
        seed: of everything random.

    Raises:
        RosterError: the log does not carry a comparison of its models.
    """
    if one_each(part):
        return counterfactual(part, rest, name, seed)
    seen_NM = np.isfinite(part.score_NM) & np.isfinite(part.cost_NM)
    if len(part.models) > 1 and seen_NM.any(0).all() and not seen_NM.all(1).any():
        return counterfactual(part, rest, name, seed)
    return complete(part, name)


def without_gaps(records: Records) -> NDArray[np.bool_]:
    """Of which prompts every model's score and cost are known, [N]."""
    return np.asarray((np.isfinite(records.score_NM) & np.isfinite(records.cost_NM)).all(1))


def complete(records: Records, part: str = "test") -> Records:
    """The prompts for which every model's score and cost are known, so that all routers face the same ones.

    Raises:
        RosterError: there are none.
    """
    whole_N = without_gaps(records)
    if not whole_N.any():
        gap_NM = ~(np.isfinite(records.score_NM) & np.isfinite(records.cost_NM))
        worst = np.argsort(-gap_NM.sum(0), kind="stable")[:3]
        lacking = ", ".join(f"{records.models[m]} ({gap_NM[:, m].sum()} of {len(records)})" for m in worst)
        raise RosterError(
            f"records {records.name!r}: no prompt of the {part} has the score and the cost of every model; most are "
            f"missing for {lacking}: leave models out (--without), or give prices where costs are missing (--prices of "
            "`roster lm import`)"
        )
    left = records.rows(whole_N)
    if dropped := len(records) - len(left):
        note = f"{dropped} of {len(records)} {part} prompts were left out: a score or cost is missing"
        left = replace(left, notes=(*records.notes, note))
    return left
