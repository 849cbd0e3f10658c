"""RouterBench: 11 models on some 36,000 prompts, one row a prompt; its score is AIQ.

Source: Hu, Bieker, Li, Jiang, Keigwin, Ranganath, Keutzer, Upadhyay, 2024, "RouterBench: A Benchmark for Multi-LLM
Routing System", arXiv:2403.12031. Columns as `convertors/common.py` writes them (`convert_to_wide_format`) and AIQ as
`evaluation/AIQ.py` computes it, github.com/withmartian/routerbench at 30e0925ac07a45108b9ee82086040a5664ea83e6.

Its tables `routerbench_0shot` and `routerbench_5shot` have `sample_id`, `prompt`, `eval_name`, for each model a column
of its name (the score), `NAME|model_response` and `NAME|total_cost`, and `oracle_model_to_route_to`. Prompts and
answers are Python lists of turns, written as text. They are published as pickles, which roster never loads, because
loading one runs whatever is in it: whoever trusts the file turns it into JSON lines once, with pandas (`CONVERT`).
"""

from __future__ import annotations

import ast
import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from roster.errors import RosterError
from roster.lm.curve import Curve
from roster.lm.records import Records, unknown
from roster.lm.splits import deduplicate, split_at_random

CONVERT = (
    "python -c \"import pandas as p; p.read_pickle('FILE.pkl').to_json('FILE.jsonl', orient='records', lines=True, "
    'double_precision=15)"'
)
_COST, _ANSWER = "|total_cost", "|model_response"


def read_routerbench(path: Path | str) -> Records:
    """RouterBench's table as records, with random splits within each `eval_name`.

    Args:
        path: `.jsonl`, `.csv` or `.parquet` (the extra `parquet`).

    Raises:
        RosterError: a pickle, with the line that converts it; a column or a value that is not RouterBench's.
    """
    path = Path(path)
    rows = list(_rows(path))
    if not rows:
        raise RosterError(f"{path}: there are no rows in it")
    models = tuple(sorted(name.removesuffix(_COST) for name in rows[0] if name.endswith(_COST)))
    for needed in ("prompt", "eval_name", *models):
        if needed not in rows[0]:
            raise RosterError(f"{path}: RouterBench's table has a column {needed!r}, and this one has not")
    if not models:
        raise RosterError(
            f"{path}: no column ends in {_COST!r}, so no model is in it; of RouterBench's files, routerbench_0shot and "
            "routerbench_5shot have a row per prompt"
        )
    shape = (len(rows), len(models))
    score_NM, cost_NM, answer_NM = unknown(*shape), unknown(*shape), np.full(shape, None, dtype=object)
    for n, row in enumerate(rows):
        for m, model in enumerate(models):
            score_NM[n, m] = _number(path, n, model, row[model])
            cost_NM[n, m] = _number(path, n, model + _COST, row[model + _COST])
            answer_NM[n, m] = _text(row.get(model + _ANSWER))
    if np.nanmax(score_NM) > 1 or np.nanmin(score_NM) < 0:
        raise RosterError(f"{path}: scores must lie between 0 and 1; there is one of {np.nanmax(score_NM):g}")
    return split_at_random(
        deduplicate(
            Records(
                name=path.stem,
                prompts=tuple(_turns(row["prompt"]) for row in rows),
                models=models,
                score_NM=score_NM,
                cost_NM=cost_NM,
                delay_NM=unknown(*shape),
                datasets=tuple(str(row["eval_name"]) for row in rows),
                splits=("train",) * len(rows),
                answer_NM=answer_NM,
                notes=("RouterBench's scores and costs; splits are random, 60/20/20 within each eval_name",),
            )
        )
    )


def aiq(curves: Mapping[str, Curve]) -> dict[str, float]:
    """Average improvement in quality of routers that are compared with each other, as RouterBench's code has it.

    The area under each non-decreasing hull, which goes on level up to the dearest point of any of them, divided by that
    point's cost. (The paper divides by the range of costs instead: `Curve.aiq`, which the reports print.)

    Args:
        curves: from cost to quality, of each router.
    """
    dearest = max(float(curve.cost_P[-1]) for curve in curves.values())
    return {name: curve.aiq(0.0, dearest) for name, curve in curves.items()}


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    kind = path.suffix.lower()
    if kind in (".pkl", ".pickle"):
        raise RosterError(
            f"{path} is a pickle, and loading one runs whatever is in it. If you trust where it came from, convert it: "
            f"{CONVERT.replace('FILE', str(path.with_suffix('')))}"
        )
    readers = {".jsonl": _json_lines, ".csv": _table, ".parquet": _parquet}
    if kind not in readers:
        raise RosterError(f"{path}: RouterBench's table is read from {', '.join(readers)}")
    try:
        yield from readers[kind](path)
    except (OSError, ValueError) as error:
        raise RosterError(f"{path} cannot be read: {error}") from None


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _table(path: Path) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # whole answers are in the cells
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise RosterError(f"{path}: reading Parquet needs an extra: pip install 'roster-moe[parquet]'") from None
    yield from parquet.read_table(path).to_pylist()


def _number(path: Path, n: int, column: str, value: Any) -> float:
    if value is None or value == "":
        return float("nan")
    try:
        return float({"True": 1.0, "False": 0.0}.get(str(value), value))
    except (TypeError, ValueError):
        raise RosterError(f"{path}, row {n + 1}: {column!r} is {value!r}, which is no number") from None


def _turns(value: Any) -> str:
    """The text; upstream keeps a list of turns as Python would print it."""
    text = str(value)
    if text.startswith("["):
        try:
            parts = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
        if isinstance(parts, list) and parts and all(isinstance(part, str) for part in parts):
            return "\n".join(parts)
    return text


def _text(value: Any) -> str | None:
    """An answer; None for what pandas writes where there is none: null, nothing, or not a number."""
    return None if value is None or value == "" or value != value else _turns(value)
