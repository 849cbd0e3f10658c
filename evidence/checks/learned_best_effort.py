"""Learned best effort: deadlines hold where the large model alone fails, at more quality than the small one's.

Recorded answers (ZeroEval's CRUX and GSM8K; gemma-2-2b, Llama-3.1-8B and Llama-3.1-70B; 2,119 questions): a model takes
one millisecond per billion parameters for each token of its recorded answer (characters / 4), one request at a time;
an answer after 20 s is worth nothing. The three models are three servers; serving statically leaves two of them idle,
as in the source, so "greedy" is the fairer rival: the best expected quality x chance to be in time, time being free.
Quality is estimated by kNN on 60 % of the questions, seconds by a line over the prompt's length; the policy is searched
on traces over another 20 %, at 0.05, 0.2, 0.8 and 2 requests a second, and judged on the last 20 %, 400 requests a
trace, at those rates, between and below them, and at a rate that wanders between all of them every 30 s on average.
Quality counts late answers as 0. The rule stood before the first run, which met it; after it the last figure was made
stricter: at first it was the highest rate with few late answers, whatever happened below it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from roster.lm import data
from roster.lm.load.arrivals import changing, poisson
from roster.lm.load.best_effort import BestEffort, Expected, gain
from roster.lm.load.queue import serve
from roster.lm.records import Matrix, Records
from roster.lm.splits import split_at_random
from roster.recipes import find

MODELS = {"gemma-2-2b-it": 2.6, "Meta-Llama-3.1-8B-Instruct": 8.0, "Meta-Llama-3.1-70B-Instruct": 70.6}
"""Billions of parameters."""
SMALL, LARGE = 0, 2
SECONDS_PER_BILLION, DEADLINE, REQUESTS = 1e-3, 20.0, 400
TRAINED = (0.05, 0.2, 0.8, 2.0)
RATES = (0.015, 0.05, 0.1, 0.2, 0.4, 0.8, 1.3, 2.0)
LATE = 0.1
HIGHEST = f"rate up to which at most {LATE:.0%} are late"


def check(seed: int) -> dict[str, float]:
    """Late answers and quality of the learned policy, of each model alone, and of the greedy policy."""
    records = split_at_random(_records(), seed=seed)
    train, validation, test = (records.split(name) for name in ("train", "validation", "test"))
    estimator = find("lm-knn")({}).estimator.fit(train)
    ratio_NM = train.delay_NM / estimator.estimate(train.prompts).delay_NM
    spread_M = np.log(ratio_NM).std(0)
    learned = find("learned-best-effort")({"deadline": DEADLINE, "rates": TRAINED})
    learned.fit(_expected(estimator, validation, spread_M), validation.score_NM, validation.delay_NM, seed=seed)
    greedy, expected = BestEffort(DEADLINE, TRAINED), _expected(estimator, test, spread_M)
    figures: dict[str, float] = {}
    for name, arrivals in _loads():
        rng = np.random.default_rng([seed, 1])
        at, arrival_N = rng.integers(len(test), size=REQUESTS), arrivals(rng)
        seconds_NM, score_NM = test.delay_NM[at], test.score_NM[at]
        played = {
            "learned": learned.serve(arrival_N, expected.rows(at), seconds_NM),
            "greedy": greedy.serve(arrival_N, expected.rows(at), seconds_NM),
        }
        for m, label in enumerate(("static small", "static middle", "static large")):
            played[label] = serve(arrival_N, seconds_NM, lambda n, load, m=m: m)
        for label, served in played.items():
            late = float((served.delay_N > DEADLINE).mean())
            figures[f"{name}: late, {label}"] = late
            figures[f"{name}: quality, {label}"] = float(gain(served, score_NM, DEADLINE).mean())
    return figures | {f"{HIGHEST}, {label}": _stands(figures, label) for label in ("learned", "static large")}


def shown(figures: list[dict[str, float]]) -> bool:
    """In the mean over seeds: wherever the large model alone is late with over 20 %, the policy is with at most 10 %;
    at every load its quality is above the small model's, and no more than 0.01 below that of whichever single model is
    best at that load; the rate up to which at most 10 % are late is over 10 times the large model's."""
    mean = {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}
    good = []
    for load, _ in _loads():
        quality = {label: mean[f"{load}: quality, static {label}"] for label in ("small", "middle", "large")}
        mine = mean[f"{load}: quality, learned"]
        good.append(mine > quality["small"] and mine >= max(quality.values()) - 0.01)
        good.append(mean[f"{load}: late, static large"] <= 0.2 or mean[f"{load}: late, learned"] <= LATE)
    return all(good) and mean[f"{HIGHEST}, learned"] > 10 * mean[f"{HIGHEST}, static large"]


def _stands(figures: dict[str, float], label: str) -> float:
    highest = 0.0
    for rate in RATES:
        if figures[f"{rate:g}/s: late, {label}"] > LATE:
            break
        highest = rate
    return highest


def _loads() -> list[tuple[str, Callable[[np.random.Generator], Matrix]]]:
    def wander(rng: np.random.Generator) -> Matrix:
        low, high = np.log(RATES[0]), np.log(RATES[-1])
        return changing(REQUESTS, lambda: (float(np.exp(rng.uniform(low, high))), rng.exponential(30.0)), rng)

    steady = [(f"{rate:g}/s", lambda rng, rate=rate: poisson(REQUESTS, rate, rng)) for rate in RATES]
    return [*steady, ("wandering", wander)]


def _expected(estimator, records: Records, spread_M: Matrix) -> Expected:
    estimates = estimator.estimate(records.prompts)
    return Expected(estimates.quality_NM, estimates.delay_NM, spread_M)


@cache
def _records() -> Records:
    parts = [data.load(f"zeroeval-{task}").only(tuple(MODELS)) for task in ("crux", "gsm8k")]
    tokens_NM = np.maximum(np.concatenate([part.cost_NM for part in parts]), 1.0)
    return Records(
        name="zeroeval, three models",
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        models=tuple(MODELS),
        score_NM=np.concatenate([part.score_NM for part in parts]),
        cost_NM=tokens_NM,
        delay_NM=tokens_NM * np.array(list(MODELS.values())) * SECONDS_PER_BILLION,
        datasets=tuple(name for part in parts for name in part.datasets),
        splits=("train",) * len(tokens_NM),
        currency="tokens written",
    )
