"""Records as a log: the form that `roster lm import` reads, one call per line."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from roster.lm.records import Records


def log_lines(records: Records, count: int | None = None) -> Iterator[str]:
    """JSON lines, without keys for what is missing.

    Args:
        records: to be written.
        count: prompts, taken evenly over the data; all by default.
    """
    total = len(records)
    for n in np.unique(np.linspace(0, total - 1, min(count or total, total)).astype(int)):
        for m, model in enumerate(records.models):
            row = {"prompt": records.prompts[n], "model": model}
            measured = {"score": records.score_NM, "cost": records.cost_NM, "latency": records.delay_NM}
            more = {"logprob": records.logprob_NM, "checked": records.checked_NM, "check_cost": records.check_cost_NM}
            measured |= {name: matrix for name, matrix in more.items() if matrix is not None}
            row |= {name: float(matrix[n, m]) for name, matrix in measured.items() if np.isfinite(matrix[n, m])}
            if records.answer_NM is not None and records.answer_NM[n, m] is not None:
                row["answer"] = records.answer_NM[n, m]
            if records.datasets[n]:
                row["dataset"] = records.datasets[n]
            yield json.dumps({**row, "split": records.splits[n]}, ensure_ascii=False)
