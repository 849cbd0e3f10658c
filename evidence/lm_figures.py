"""Makes the figures under `src/roster/lm/data` from a folder of the texts; run when a source or its commit changes.

    ROSTER_DATA=folder python -m evidence.lm_figures

What is written: scores, lengths in characters, ids of equal questions and equal answers, data sets, splits, and in
`sources.json` the hash of every file and of the texts. No text of others is written.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.files import write_whole
from roster.lm.data import places
from roster.lm.data.texts import digest, upstream
from roster.lm.estimate.agreement import answer_ids
from roster.lm.splits import same

HERE = Path(__file__).parents[1] / "src" / "roster" / "lm" / "data"
WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
ROUTELLM, ROUTER, ZERO = "lm-sys__RouteLLM", "ulab-uiuc__LLMRouter", "WildEval__ZeroEval"
EVALS = "routellm/evals"


def lines(folder: str, path: str) -> list[Any]:
    """One JSON value a line."""
    return [json.loads(line) for line in places.read(folder, path).decode().split("\n") if line]


def table(path: str) -> list[dict[str, str]]:
    """The rows of one of RouteLLM's CSV files."""
    return list(csv.DictReader(io.StringIO(places.read(ROUTELLM, path).decode(), newline="")))


def llmrouter() -> dict[str, Any]:
    """Scores of both files, with the task of each question from the query files."""
    data = {s: json.loads(places.read(ROUTER, f"data/dcrouter_preprocessed/{s}.json")) for s in ("train", "test")}
    rows = data["train"] + data["test"]
    asked = [f"data/example_data/query_data/default_query_{split}.jsonl" for split in ("train", "test")]
    # A few questions belong to two tasks: the first in the files counts.
    tasks = {row["query"]: row["task_name"] for row in reversed([row for path in asked for row in lines(ROUTER, path)])}
    models = sorted(rows[0]["scores"])
    return {
        "models": models,
        # By name: the two files list the models in different orders.
        "score": [[row["scores"].get(model, np.nan) for model in models] for row in rows],
        "dataset": [tasks[row["question"]] for row in rows],
        "split": [split for split, part in data.items() for _ in part],
    }


def routellm(paths: list[str], task: str) -> dict[str, Any]:
    """Correctness of two models, without the questions that upstream calls contaminated."""
    dropped = {row["eval_prompt"] for row in lines(ROUTELLM, f"{EVALS}/{task}/contaminated_prompts.jsonl")}
    rows = [(path, row) for path in paths for row in table(path)]
    kept = [n for n, (_, row) in enumerate(rows) if row["prompt"] not in dropped]
    return {
        "models": [WEAK, STRONG],
        "row": kept,
        "score": [[float(json.loads(rows[n][1][model].lower())) for model in (WEAK, STRONG)] for n in kept],
        "dataset": [re.sub(r"^mmlu_|_responses$", "", Path(rows[n][0]).stem) for n in kept],
    }


def mt_bench() -> dict[str, Any]:
    """The mean over both turns, divided by 10."""
    dropped = {row["eval_prompt"] for row in lines(ROUTELLM, f"{EVALS}/mt_bench/contaminated_prompts.jsonl")}
    asked = lines(ROUTELLM, f"{EVALS}/mt_bench/question.jsonl")
    given: dict[tuple[int, str], list[float]] = {}
    order: dict[int, None] = {}
    for row in lines(ROUTELLM, f"{EVALS}/mt_bench/judgements.jsonl"):
        given.setdefault((row["question_id"], row["model"]), []).append(row["score"] / 10)
        order.setdefault(row["question_id"])
    position = {row["question_id"]: n for n, row in enumerate(asked)}
    kept = [position[key] for key in order if asked[position[key]]["turns"][0] not in dropped]
    means = [[np.mean(given[asked[n]["question_id"], model]) for model in (WEAK, STRONG)] for n in kept]
    return {"models": [WEAK, STRONG], "row": kept, "score": means, "dataset": [asked[n]["category"] for n in kept]}


def zeroeval(task: str) -> dict[str, Any]:
    """Correctness, lengths of the answers, and which final answers are equal."""
    with np.load(io.BytesIO(places.read(ZERO, f"{task}.npz")), allow_pickle=False) as stored:
        models, ids = [str(each) for each in stored["models"]], [str(each) for each in stored["ids"]]
        score, written = stored["correct"].T.astype(float), stored["out_chars"].T
    position = {row["id"]: n for n, row in enumerate(lines(ZERO, f"{task}.queries.jsonl"))}
    answers = json.loads(places.read(ZERO, f"{task}.answers.json"))
    ids_NM = answer_ids(np.array([answers[model] for model in models], dtype=object).T)
    lengths = [len(row["question"]) for row in lines(ZERO, f"{task}.queries.jsonl")]
    return {
        "models": models,
        "row": [position[each] for each in ids],
        "score": score,
        "written": written.astype(np.int32),
        "answer": ids_NM.astype(np.int16),
        "chars": [lengths[position[each]] for each in ids],
        "dataset": [{"crux": "crux", "gsm": "gsm8k"}[task]] * len(ids),
    }


def arrays(made: dict[str, Any], prompts: list[str]) -> dict[str, NDArray[Any]]:
    """What is stored of one collection; names of data sets and splits become numbers."""
    stored: dict[str, NDArray[Any]] = {"models": np.array(made["models"]), "score": np.array(made["score"], float)}
    count = len(stored["score"])
    row_N = np.array(made.get("row", range(count)), dtype=np.int32)
    names, of_N = np.unique(made["dataset"], return_inverse=True)
    group = [same(prompts[n]) for n in row_N]
    first: dict[str, int] = {}
    stored |= {
        "row": row_N,
        "datasets": names,
        "dataset": of_N.astype(np.uint8),
        "test": np.array([split == "test" for split in made.get("split", [""] * count)]),
        "same": np.array([first.setdefault(each, n) for n, each in enumerate(group)], dtype=np.int32),
        "chars": np.array(made.get("chars", [len(prompts[n]) for n in row_N]), dtype=np.int32),
    }
    return stored | {key: np.asarray(made[key]) for key in ("written", "answer") if key in made}


def main() -> None:
    """Writes every figures.npz and sources.json."""
    sources = json.loads((HERE / "sources.json").read_text(encoding="utf-8"))
    mmlu = sorted(path for path in sources["routellm-mmlu"]["files"])
    makers = {
        "llmrouter": llmrouter,
        "routellm-gsm8k": lambda: routellm([f"{EVALS}/gsm8k/gsm8k_responses.csv"], "gsm8k"),
        "routellm-mmlu": lambda: routellm(mmlu, "mmlu"),
        "routellm-mt-bench": mt_bench,
        "zeroeval-crux": lambda: zeroeval("crux"),
        "zeroeval-gsm8k": lambda: zeroeval("gsm"),
    }
    for name, source in sources.items():
        prompts, answers = upstream(name)
        if name in makers:
            stored = arrays(makers[name](), prompts)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **stored)  # type: ignore[arg-type]
            write_whole(HERE / source["folder"] / f"{name}.npz", buffer.getvalue())
            prompts, answers = (
                [prompts[n] for n in stored["row"]],
                [answers[n] for n in stored["row"]] if answers else [],
            )
        source["texts"] = digest(prompts, answers)
        for path in source["files"]:
            try:
                content = places.read(source["repository"].replace("/", "__"), path)
                source["files"][path] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            except RosterError:
                source["files"][path] = {}  # Not in the folder: what is read from it is checked by `texts`.
    write_whole(HERE / "sources.json", (json.dumps(sources, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
