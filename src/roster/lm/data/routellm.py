"""RouteLLM's evaluation: a weak and a strong model on MMLU, GSM8K and MT-Bench.

The cost is upstream's: 1 for a call to the strong model, 0 for the weak one. Questions that upstream found in its
routers' training data are dropped, as upstream does.
"""

from __future__ import annotations

import csv
import io
import json

import numpy as np

from roster.lm.data.files import read_bytes, read_lines
from roster.lm.records import Records, unknown
from roster.lm.splits import deduplicate, split_at_random

WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
MODELS = (WEAK, STRONG)
CURRENCY = "calls to the strong model"


def gsm8k() -> Records:
    """1,307 grade-school problems with both responses; random splits."""
    rows = _table("routellm/gsm8k_responses.csv.xz", "gsm8k")
    answers = np.array([[row[f"{model}_response"] for model in MODELS] for row in rows], dtype=object)
    return _records("routellm-gsm8k", rows, ["gsm8k"] * len(rows), answers)


def mmlu() -> Records:
    """13,932 multiple-choice questions of 57 subjects (105 repeats removed), correctness only; random splits."""
    rows = _table("routellm/mmlu.csv.xz", "mmlu")
    return _records("routellm-mmlu", rows, [row["subject"] for row in rows], None)


def mt_bench() -> Records:
    """72 open questions; the score is the mean of both turns, divided by 10."""
    dropped = _contaminated("mt_bench")
    score: dict[int, dict[str, list[float]]] = {}
    about: dict[int, dict] = {}
    for row in read_lines("routellm/mt_bench.jsonl.xz"):
        if row["turns"][0] not in dropped:
            score.setdefault(row["question_id"], {}).setdefault(row["model"], []).append(row["score"] / 10)
            about[row["question_id"]] = row
    rows = [
        {"prompt": about[key]["turns"][0], **{model: np.mean(each[model]) for model in MODELS}}
        for key, each in score.items()
    ]
    return _records("routellm-mt-bench", rows, [about[key]["category"] for key in score], None)


def _contaminated(task: str) -> set[str]:
    return {row["eval_prompt"] for row in read_lines(f"routellm/{task}.contaminated_prompts.jsonl.xz")}


def _table(path: str, task: str) -> list[dict]:
    dropped = _contaminated(task)
    rows = csv.DictReader(io.StringIO(read_bytes(path).decode(), newline=""))
    return [
        {**row, **{model: float(json.loads(row[model].lower())) for model in MODELS}}
        for row in rows
        if row["prompt"] not in dropped
    ]


def _records(name: str, rows: list[dict], datasets: list[str], answers: np.ndarray | None) -> Records:
    score_NM = np.array([[row[model] for model in MODELS] for row in rows], dtype=float)
    records = Records(
        name=name,
        prompts=tuple(row["prompt"] for row in rows),
        models=MODELS,
        score_NM=score_NM,
        cost_NM=np.tile([0.0, 1.0], (len(rows), 1)),
        delay_NM=unknown(*score_NM.shape),
        datasets=tuple(datasets),
        splits=("train",) * len(rows),
        currency=CURRENCY,
        answer_NM=answers,
        notes=("the cost is the share of calls to the strong model; splits are random, 60/20/20",),
    )
    return split_at_random(deduplicate(records))
