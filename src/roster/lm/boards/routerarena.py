"""RouterArena: some 8,400 questions of many fields; its score weighs accuracy against the logarithm of the cost.

Source: Lu, Liu, Yuan, Cui, Zhang, Liu, Xing, 2025, "RouterArena: An Open Platform for Comprehensive Comparison of LLM
Routers", arXiv:2510.00202. Score as `llm_evaluation/run.py` computes it, github.com/RouteWorks/RouterArena at
0d783fa1587dce0d94f8380f30587330d9614436; files as `cached_results/` and `router_inference/predictions/` have them at
2fd498fe1ab511fd683d8dd4b948b082cee3f331 and 1f5f84db950155ad2cceccfd34d355f4758cee4c.

Two kinds of its files hold results: `cached_results/MODEL.jsonl`, one model's answers (`global_index`, `question`,
`llm_selected`, `generated_answer`, and `evaluation_result` with `score` and `inference_cost`, or null where nobody has
judged the answer), and `predictions/ROUTER.json`, a list (`global index`, `prompt`, `prediction`, `generated_result`,
`accuracy`, `cost`; entries `for_optimality` are other models' answers to the same question). A slash of a model's name
is an underscore in its file's. `predictions/ROUTER-robustness.json` holds reworded questions under the same indices and
no results: it is left out. A question's field is what precedes the last "_" of its index. Its text is in the
benchmark's `router_data.json` (`prompt_formatted`), in predictions, or in the cached results.
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
_REWORDED = "-robustness.json"
_FORMATTED, _QUESTION = "prompt_formatted", ("prompt", "question", "Question")


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
    """Results and questions by index, and what was left out."""

    prompts: dict[str, str] = field(default_factory=dict)
    cells: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    answers: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, index: str, model: str | None, score: Any, cost: Any, answer: Any) -> None:
        """One result; a cost of 0 is upstream's word for not known, and several of a model have a mean."""
        if model and score is not None:
            self.cells.setdefault((index, model), []).append((float(score), float(cost) if cost else float("nan")))
            if isinstance(answer, str) and answer:
                self.answers.setdefault((index, model), answer)

    def entry(self, path: Path, number: int, entry: Mapping[str, Any]) -> None:
        """One entry of a file; RosterError where it is not RouterArena's."""
        index = entry.get("global_index") or entry.get("global index") or entry.get("Global Index")
        if not isinstance(index, str):
            raise RosterError(f"{path}, entry {number}: there is no 'global_index', so it is not RouterArena's")
        if text := entry.get(_FORMATTED):  # the benchmark's own, whatever else says
            self.prompts[index] = str(text)
        elif text := next((entry[name] for name in _QUESTION if entry.get(name)), None):
            self.prompts.setdefault(index, str(text))
        if path.suffix == ".jsonl":
            result = entry.get("evaluation_result") or {}
            model = entry.get("llm_selected") or path.stem
            self.take(index, model, result.get("score"), result.get("inference_cost"), entry.get("generated_answer"))
        else:
            answer = (entry.get("generated_result") or {}).get("generated_answer")
            self.take(index, entry.get("prediction"), entry.get("accuracy"), entry.get("cost"), answer)


def read_routerarena(paths: Sequence[Path | str]) -> Records:
    """RouterArena's files as records, with random splits within each field.

    Args:
        paths: cached results, predictions and `router_data.json`, in any order; of a folder, all of these in it.

    Raises:
        RosterError: a file that is none of these, no results, or results without their questions.
    """
    found = _Found()
    for path, from_folder in _files(paths):
        if path.name.endswith(_REWORDED):
            found.notes.append(f"{path.name} was left out: its questions are reworded, and it has no results")
            continue
        entries = _entries(path)
        if entries is None and from_folder:
            found.notes.append(f"{path.name} was left out: it is no list of entries")
            continue
        if entries is None:
            raise RosterError(f"{path}: RouterArena's files are lists of entries, and this one is not")
        for number, entry in enumerate(entries, start=1):
            found.entry(path, number, entry)
    return _records(found, paths)


def _files(paths: Iterable[Path | str]) -> Iterator[tuple[Path, bool]]:
    """Every file, and whether a folder that was named has it."""
    for path in map(Path, paths):
        if not path.exists():
            raise RosterError(f"{path}: there is no such file")
        if not path.is_dir():
            yield path, False
            continue
        yield from ((each, True) for each in sorted([*path.glob("*.jsonl"), *path.glob("*.json")]))


def _entries(path: Path) -> list[Mapping[str, Any]] | None:
    """The entries of a file; None where it is JSON and no list of objects."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if path.suffix == ".jsonl" else None
        rows = json.loads(text) if rows is None else rows
    except ValueError as error:
        raise RosterError(f"{path} is not JSON: {error}") from None
    return rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else None


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
    answer_NM = np.full(score_NM.shape, None, dtype=object)
    for (index, model), results in found.cells.items():
        at = row[index], column[model]
        scores, costs = np.array(results).T
        score_NM[at] = scores.mean()
        cost_NM[at] = costs[np.isfinite(costs)].mean() if np.isfinite(costs).any() else np.nan
        answer_NM[at] = found.answers.get((index, model))
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
                answer_NM=answer_NM if found.answers else None,
                notes=(
                    "RouterArena's scores and costs; splits are random, 60/20/20 within each field",
                    *found.notes,
                ),
            )
        )
    )
