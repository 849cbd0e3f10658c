"""What routers are judged on: prompts for which every model's score and cost are known.

Logs have gaps. Costs that nobody logged at all leave quality alone to be judged; a prompt with a gap is left out, and
the notes say how many there were.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from roster.errors import RosterError
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


def complete(records: Records, part: str = "test") -> Records:
    """The prompts for which every model's score and cost are known, so that all routers face the same ones.

    Raises:
        RosterError: there are none.
    """
    gap_NM = ~(np.isfinite(records.score_NM) & np.isfinite(records.cost_NM))
    whole_N = np.asarray(~gap_NM.any(1))
    if not whole_N.any():
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
