"""RouterArena: some 8,400 questions of many fields; its score weighs accuracy against the logarithm of the cost.

Source: Lu, Liu, Yuan, Cui, Zhang, Liu, Xing, 2025, "RouterArena: An Open Platform for Comprehensive Comparison of LLM
Routers", arXiv:2510.00202; files and score as in the authors' code.

Two kinds of its files hold results: `cached_results/MODEL.jsonl`, one model's answers (`global_index`,
`evaluation_result` with `score` and `inference_cost`), and the predictions of a router, a JSON list (`global index`,
`prompt`, `prediction`, `accuracy`, `cost`). A question's field is what precedes the last "_" of its index. Its text is
in predictions, in the benchmark's `router_data.json`, or in the cached results themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from roster.errors import RosterError
from roster.lm.records import Matrix, Records, unknown
from roster.lm.splits import deduplicate, split_at_random

BETA, DEAREST, CHEAPEST = 0.1, 200.0, 0.0044
"""Weight of accuracy against cost, and the costs per 1,000 questions between which a router is placed."""
_QUESTION = ("prompt_formatted", "prompt", "question", "Question")


def arena_score(accuracy: float, cost_per_1000: float) -> float:
    """The score S = (1 + b) A C / (b A + C), with C = log(200 / cost) / log(200 / 0.0044) and b = 0.1.

    Args:
        accuracy: A, in [0, 1].
        cost_per_1000: dollars for a thousand questions; outside of 0.0044 to 200 the nearer end counts.

    Raises:
        RosterError: an accuracy outside of [0, 1], or a cost that is not above zero.
    """
    if not 0 <= accuracy <= 1:
        raise RosterError(f"RouterArena's accuracy lies between 0 and 1, not at {accuracy:g}")
    if not cost_per_1000 > 0:
        raise RosterError(f"RouterArena scores costs above 0, not {cost_per_1000:g}")
    cost = min(max(cost_per_1000, CHEAPEST), DEAREST)
    frugality = math.log2(DEAREST / cost) / math.log2(DEAREST / CHEAPEST)
    weighed = BETA * accuracy + frugality
    return (1 + BETA) * accuracy * frugality / weighed if weighed > 0 else 0.0


def arena_score_of(score_N: Matrix, cost_N: Matrix) -> float:
    """The score of what a router did on N questions: of its mean accuracy, and of its mean cost in dollars."""
    return arena_score(float(score_N.mean()), 1000 * float(cost_N.mean()))


@dataclass
class _Found:
    """Results and questions by index."""

    prompts: dict[str, str] = field(default_factory=dict)
    cells: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def take(self, index: str, model: str | None, score: Any, cost: Any) -> None:
        """One result; a cost of 0 is upstream's word for not known."""
        if model and score is not None:
            self.cells[index, model] = (float(score), float(cost) if cost else float("nan"))


def read_routerarena(paths: Sequence[Path | str]) -> Records:
    """RouterArena's files as records, with random splits within each field.

    Args:
        paths: cached results, predictions and `router_data.json`, in any order; of a folder, all of these in it.

    Raises:
        RosterError: a file that is none of these, no results, or results without their questions.
    """
    found = _Found()
    for path in _files(paths):
        for number, entry in enumerate(_entries(path), start=1):
            index = entry.get("global_index") or entry.get("global index") or entry.get("Global Index")
            if not isinstance(index, str):
                raise RosterError(f"{path}, entry {number}: there is no 'global_index', so it is not RouterArena's")
            if text := next((entry[name] for name in _QUESTION if entry.get(name)), None):
                found.prompts.setdefault(index, str(text))
            result = entry.get("evaluation_result") or {}
            if path.suffix == ".jsonl":
                found.take(index, path.stem, result.get("score"), result.get("inference_cost"))
            else:
                found.take(index, entry.get("prediction"), entry.get("accuracy"), entry.get("cost"))
    return _records(found, paths)


def _files(paths: Iterable[Path | str]) -> Iterator[Path]:
    for path in map(Path, paths):
        if not path.exists():
            raise RosterError(f"{path}: there is no such file")
        yield from sorted([*path.glob("*.jsonl"), *path.glob("*.json")]) if path.is_dir() else [path]


def _entries(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if path.suffix == ".jsonl" else None
        rows = json.loads(text) if rows is None else rows
    except ValueError as error:
        raise RosterError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RosterError(f"{path}: RouterArena's files are lists of entries, and this one is not")
    return rows


def _records(found: _Found, paths: Sequence[Path | str]) -> Records:
    if not found.cells:
        raise RosterError(
            f"{', '.join(map(str, paths))}: there are no scored results; RouterArena's evaluation adds them"
        )
    order = sorted({index for index, _ in found.cells})
    if lacking := [index for index in order if index not in found.prompts]:
        raise RosterError(
            f"the text of {len(lacking)} questions is missing, such as {lacking[0]!r}: give router_data.json too"
        )
    models = tuple(sorted({model for _, model in found.cells}))
    row, column = {index: n for n, index in enumerate(order)}, {model: m for m, model in enumerate(models)}
    score_NM, cost_NM = unknown(len(order), len(models)), unknown(len(order), len(models))
    for (index, model), (score, cost) in found.cells.items():
        at = row[index], column[model]
        score_NM[at], cost_NM[at] = score, cost
    seen_NM = np.isfinite(score_NM)
    if (score_NM[seen_NM] > 1).any() or (score_NM[seen_NM] < 0).any():
        raise RosterError("RouterArena's accuracies lie between 0 and 1, and there are others")
    return split_at_random(
        deduplicate(
            Records(
                name="routerarena",
                prompts=tuple(found.prompts[index] for index in order),
                models=models,
                score_NM=score_NM,
                cost_NM=cost_NM,
                delay_NM=unknown(*score_NM.shape),
                datasets=tuple(index.rpartition("_")[0] or index for index in order),
                splits=("train",) * len(order),
                notes=("RouterArena's scores and costs; splits are random, 60/20/20 within each field",),
            )
        )
    )
