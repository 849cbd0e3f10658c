"""`python -m evidence.lm`: every figure of docs/results/lm.md, from the recorded data that come with roster.

Nothing is chosen by hand between measuring and writing; what a figure does not show is written as not shown.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from roster.files import write_whole
from roster.lm import data
from roster.lm.calibration import auroc
from roster.lm.confidence import cross_fitted
from roster.lm.curve import interval, resamples
from roster.lm.estimate import Factors, Smoothie
from roster.lm.estimate.agreement import one_coin
from roster.lm.evaluate import evaluate
from roster.lm.records import Matrix, Records

SHARES = tuple(round(share, 2) for share in np.arange(0.05, 1.0, 0.05))
DRAWS = 1000


def with_minilm(name: str) -> dict[str, Any]:
    """The report on one collection, in distribution, of some recipes that read MiniLM's vectors instead of TF-IDF's."""
    from roster.recipes import find

    slugs = ("lm-knn", "lm-logistic", "composition-of-experts", "model-sat")
    made = {slug: functools.partial(find(slug), {"encoder": "minilm"}) for slug in slugs}
    return evaluate(data.load(name), made, draws=DRAWS).to_dict()


def routers(name: str, held_out: tuple[str, ...] = (), added: tuple[str, ...] = ()) -> dict[str, Any]:
    """The report of `roster lm eval` on one collection, all recipes that it allows: in distribution, or elsewhere."""
    from roster.cli.lm_recipes import recipes_for

    records = data.load(name)
    recipes, left_out = recipes_for(None, records)
    wanted = {recipe.slug: recipe for recipe in recipes}
    here = not held_out and not added
    report = evaluate(records, wanted, held_out=held_out, added=added, in_distribution=here, draws=DRAWS)
    report.notes = (*report.notes, *left_out)
    return report.to_dict()


def cascade(records: Records) -> dict[str, Any]:
    """Escalating a share of the prompts to the strong model, beside escalating a random share.

    Two orders: the least sure answers first, and the largest expected gain first (how likely the strong model is right,
    from the question, less how likely the weak one's answer is). Both are learned and cross-fitted in five folds. The
    difference has its interval from a paired bootstrap; random escalation is taken in expectation.
    """
    weak_N, strong_N = records.score_NM.T
    prompts = list(records.prompts)
    answers = None if records.answer_NM is None else list(records.answer_NM[:, 0])
    sure_N = cross_fitted(prompts, answers, weak_N)
    gain_N = cross_fitted(prompts, None, strong_N) - sure_N
    orders = {"confidence": np.argsort(sure_N, kind="stable"), "expected gain": np.argsort(-gain_N, kind="stable")}
    return {
        "prompts": len(records),
        "weak": weak_N.mean(),
        "strong": strong_N.mean(),
        "reads": "question and answer" if answers else "question",
        "confidence_auroc": auroc(sure_N, weak_N),
        "orders": {name: _escalate(order, weak_N, strong_N) for name, order in orders.items()},
    }


def _escalate(order: np.ndarray, weak_N: Matrix, strong_N: Matrix) -> dict[str, Any]:
    count = len(weak_N)
    weight_BN = resamples(count, DRAWS)
    rows = []
    for share in SHARES:
        escalated_N = np.zeros(count, dtype=bool)
        escalated_N[order[: round(share * count)]] = True
        # The exact share that was escalated, so that rounding favours nobody.
        exact = escalated_N.mean()
        quality_N = np.where(escalated_N, strong_N, weak_N)
        over_N = quality_N - (exact * strong_N + (1 - exact) * weak_N)
        low, high = interval(weight_BN @ over_N)
        rows.append(
            {"share": share, "quality": quality_N.mean(), "over_random": over_N.mean(), "low": low, "high": high}
        )
    return {
        "better_at_every_share": all(row["over_random"] > 0 for row in rows),
        "beyond_interval_at_every_share": all(row["low"] > 0 for row in rows),
        "rows": rows,
    }


def added_model(records: Records, probes: tuple[int, ...] = (10, 20, 50), seeds: int = 3) -> dict[str, Any]:
    """Every model in turn is known by k probes only; the others' answers to all questions are on record.

    What is judged is its success on the questions that were not probes: AUROC per model, averaged over the seeds.
    """
    rows = []
    for model in records.models:
        others = Factors().fit(records.only([name for name in records.models if name != model]))
        truth_N = records.score_NM[:, records.column(model)]
        for k in probes:
            found = []
            for seed in range(seeds):
                drawn = np.random.default_rng(seed).permutation(len(records))
                rest = drawn[k:]
                expected = others.recorded(model, records.rows(drawn[:k]), [records.prompts[n] for n in rest])
                found.append(auroc(expected, truth_N[rest]))
            rows.append({"model": model, "probes": k, "auroc": float(np.mean(found))})
    summary = {}
    for k in probes:
        values = np.array([row["auroc"] for row in rows if row["probes"] == k])
        summary[str(k)] = {
            "mean": values.mean(),
            "median": np.median(values),
            "lowest": values.min(),
            "models_at_0.85": int((values >= 0.85).sum()),
            "models": len(values),
        }
    return {"summary": summary, "rows": rows}


def label_free(records: Records) -> dict[str, Any]:
    """Rank correlation between label-free estimates and true accuracies of all models."""
    truth_M = records.score_NM.mean(0)
    by_agreement_M, _ = one_coin(records.answer_NM)
    smoothie = Smoothie(neighbours=0, answers="exact").fit(records)
    by_smoothie_M = smoothie.estimate(records.prompts[:1]).quality_NM[0]
    return {
        "models": len(truth_M),
        "questions": len(records),
        "agreement": spearman(by_agreement_M, truth_M),
        "smoothie": spearman(by_smoothie_M, truth_M),
        "agreement_error": float(np.abs(by_agreement_M - truth_M).mean()),
    }


def label_free_summaries() -> dict[str, float]:
    """Smoothie's quality per model on summaries, for which nobody has recorded a score."""
    records = data.load("smoothie-cnn")
    found = Smoothie(neighbours=0).fit(records).estimate(records.prompts[:1])
    return dict(zip(found.models, found.quality_NM[0].tolist(), strict=True))


def spearman(a_M: Matrix, b_M: Matrix) -> float:
    """Rank correlation, ties at their mean rank."""

    def ranks(values: Matrix) -> Matrix:
        _, at, count = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(count) - (count - 1) / 2)[at]

    return float(np.corrcoef(ranks(a_M), ranks(b_M))[0, 1])


PARTS: dict[str, Callable[[], Any]] = {
    "llmrouter": lambda: routers("llmrouter"),
    "zeroeval": lambda: routers("zeroeval"),
    "llmrouter-elsewhere": lambda: routers("llmrouter", ("mmlu", "gsm8k"), ("llama-3.1-nemotron-51b-instruct",)),
    "zeroeval-elsewhere": lambda: routers("zeroeval", ("crux", "gsm8k"), ("gpt-4o-2024-08-06",)),
    "llmrouter-minilm": lambda: with_minilm("llmrouter"),
    "zeroeval-minilm": lambda: with_minilm("zeroeval"),
    "cascade-gsm8k": lambda: cascade(data.load("routellm-gsm8k")),
    "cascade-mmlu": lambda: cascade(data.load("routellm-mmlu")),
    "added-crux": lambda: added_model(data.load("zeroeval-crux")),
    "label-free-crux": lambda: label_free(data.load("zeroeval-crux")),
    "label-free-gsm8k": lambda: label_free(data.load("zeroeval-gsm8k")),
    "label-free-summaries": label_free_summaries,
}


def main() -> None:
    """Runs the parts asked for and rewrites the results, keeping those of the others."""
    import torch
    from rich.console import Console

    from evidence.lm_page import page

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    stored = arguments.out / "lm.json"
    content = json.loads(stored.read_text()) if stored.exists() else {"results": {}}
    for name in arguments.only:
        start = time.monotonic()
        content["results"][name] = PARTS[name]()
        content["about"] = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
            "versions": ", ".join(f"{each} {version(each)}" for each in ("numpy", "scikit-learn", "torch")),
        }
        write_whole(stored, (json.dumps(content, indent=1) + "\n").encode())
        write_whole(arguments.out / "lm.md", page(content).encode())
        console.print(f"{name}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
