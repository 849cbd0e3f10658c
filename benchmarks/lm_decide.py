"""How long a decision among ten models takes: TF-IDF + kNN over 10,000 training prompts, a prompt of 500 tokens.

    python benchmarks/lm_decide.py

Training prompts are drawn from the recorded questions that come with roster (and recombined to reach 10,000 different
ones); scores are random, because no time depends on them. The prompt is cut to 500 word-piece-like tokens (2,000
characters). scikit-learn's own pipeline (TfidfVectorizer, brute-force NearestNeighbors) runs beside it, round after
round, in the same process on one thread. CPU time is given beside wall time: on a machine that others use too, the
second is mostly waiting. Results go to benchmarks/results/lm_decide.json.
"""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from roster.files import write_whole
from roster.lm import data
from roster.lm.decide import Weights
from roster.lm.estimate import KNN
from roster.lm.offline import OfflinePolicy
from roster.lm.prices import CHARS_PER_TOKEN
from roster.lm.records import Records

RESULTS = Path(__file__).parent / "results" / "lm_decide.json"
TRAIN, MODELS, TOKENS, ROUNDS = 10_000, 10, 500, 200


def records() -> tuple[Records, list[str]]:
    """Training records, and other prompts of exactly the length in question."""
    rng = np.random.default_rng(0)
    asked = [p for name in ("llmrouter", "routellm-mmlu") for p in data.load(name).prompts]
    order = rng.permutation(len(asked))
    prompts = tuple(asked[n] for n in order[:TRAIN])
    left = [asked[n] for n in order[TRAIN:]]
    long = " ".join(left)
    size = int(TOKENS * CHARS_PER_TOKEN)
    shape = (TRAIN, MODELS)
    made = Records(
        name="benchmark",
        prompts=prompts,
        models=tuple(f"model-{m}" for m in range(MODELS)),
        score_NM=rng.random(shape).round(),
        cost_NM=rng.random(shape),
        delay_NM=rng.random(shape),
        datasets=("",) * TRAIN,
        splits=("train",) * TRAIN,
    )
    return made, [long[n * size : (n + 1) * size] for n in range(ROUNDS)]


def main() -> None:
    made, prompts = records()
    policy = OfflinePolicy("benchmark", KNN().fit(made), Weights(cost=0.1))
    vectorizer = policy.estimator.encoder.vectorizer()
    neighbours = NearestNeighbors(n_neighbors=40, algorithm="brute", metric="cosine")
    neighbours.fit(vectorizer.fit_transform(made.prompts))

    def scikit_learn(prompt: str) -> np.ndarray:
        at = neighbours.kneighbors(vectorizer.transform([prompt]), return_distance=False)
        return made.score_NM[at[0]].mean(0)

    contenders = {"roster": policy.decide, "scikit-learn": scikit_learn}
    took: dict[str, list[float]] = {name: [] for name in contenders}
    computed: dict[str, list[float]] = {name: [] for name in contenders}
    for prompt in prompts:
        for name, decide in contenders.items():
            start, cpu = time.perf_counter(), time.process_time_ns()
            decide(prompt)
            computed[name].append((time.process_time_ns() - cpu) / 1e6)
            took[name].append(1000 * (time.perf_counter() - start))
    rows = {
        name: {
            "median_ms": statistics.median(ms),
            "p95_ms": float(np.quantile(ms, 0.95)),
            "fastest_ms": min(ms),
            "median_cpu_ms": statistics.median(computed[name]),
        }
        for name, ms in took.items()
    }
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, 1 thread",
        "versions": {name: version(name) for name in ("numpy", "scikit-learn")},
        "prompt_tokens": TOKENS,
        "training_prompts": TRAIN,
        "models": MODELS,
        "rounds": ROUNDS,
    }
    write_whole(RESULTS, (json.dumps({"about": about, "rows": rows}, indent=1) + "\n").encode())
    for name, row in rows.items():
        Console().print(name, {key: round(value, 3) for key, value in row.items()})


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
