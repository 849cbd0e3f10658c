"""What records lack for a method, in words: a report leaves such methods out by name, and whoever asks is told why."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from roster.lm.judging import free_of_charge, without_gaps
from roster.lm.offpolicy.counterfactual import one_each
from roster.lm.records import Records
from roster.lm.self_checks import self_checking


def lacking(needs: Iterable[str], records: Records) -> str | None:
    """Why a method cannot be used on some records, as a clause about the method; None where it can.

    Args:
        needs: of its recipe. "answers": of several models to a prompt; "texts": of every model to every prompt that is
            judged, as texts; "checks": by a model of its own answers, with their cost.
        records: all splits.
    """
    for need in needs:
        if need in _FOUND and (reason := _FOUND[need](records)) is not None:
            return reason
    return None


def _answers(records: Records) -> str | None:
    if records.answer_NM is None or one_each(records):
        return f"compares answers of several models, and records {records.name!r} lack them"
    return None


def _texts(records: Records) -> str | None:
    if records.answer_NM is None or not _judged_on_answers(records):
        return f"reads the answer of every model, and records {records.name!r} lack them (column `answer`)"
    if not records.worded:
        return f"reads answers, and of those in records {records.name!r} is only known which are equal"
    missing_NM = np.array([[answer is None for answer in row] for row in records.answer_NM])
    if told := _gaps(missing_NM, records):
        return f"reads the answer of every model, and records {records.name!r} lack {told}"
    return None


def _checks(records: Records) -> str | None:
    lack = f"weighs a model's checks of its own answers, and records {records.name!r} lack"
    if records.checked_NM is None or not _judged_on_answers(records):
        return f"{lack} them (column `checked`)"
    if records.check_cost_NM is None:
        return f"{lack} what they cost (column `check_cost`)"
    known_NM = np.isfinite(records.checked_NM) & np.isfinite(records.check_cost_NM)
    whole_N = without_gaps(free_of_charge(records))
    partly_M = known_NM[whole_N].any(0) & ~known_NM[whole_N].all(0)
    if told := _gaps(~known_NM & partly_M, records):
        return f"{lack} {told}"
    if not self_checking(records.rows(whole_N)):
        return f"{lack} them where scores and costs are known"
    return None


def _judged_on_answers(records: Records) -> bool:
    """Whether every split has prompts with all scores and costs, so that nothing is estimated in their place."""
    whole_N = without_gaps(free_of_charge(records))
    splits = np.array(records.splits)
    return not one_each(records) and all(whole_N[splits == name].any() for name in set(records.splits))


def _gaps(missing_NM: NDArray[np.bool_], records: Records) -> str:
    """How many are missing on the prompts that are judged, and of whom most; empty for none."""
    missing_M = missing_NM[without_gaps(free_of_charge(records))].sum(0)
    if not missing_M.any():
        return ""
    worst = records.models[int(missing_M.argmax())]
    return f"{int(missing_M.sum())} of them, most of {worst!r} ({int(missing_M.max())} prompts)"


_FOUND = {"answers": _answers, "texts": _texts, "checks": _checks}
