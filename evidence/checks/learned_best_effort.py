"""Learned best effort's claim: where a model alone is late or poor, a learned policy gives the best of both.

Recorded answers (ZeroEval's CRUX and GSM8K; gemma-2-2b, Llama-3.1-8B and Llama-3.1-70B; 2,119 questions): a model takes
one millisecond per billion parameters for each token of its recorded answer (characters / 4), one request at a time;
an answer after 20 s is worth nothing. The three models are three servers. Quality is estimated by kNN on 60 % of the
questions, seconds by a line over the prompt's length; the policy is searched on traces over another 20 %, at four
rates, and judged on the last 20 % while the rate wanders between all of them.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm import data
from roster.lm.load.arrivals import changing
from roster.lm.load.best_effort import BestEffort, Expected, gain
from roster.lm.load.queue import serve
from roster.lm.records import Matrix, Records
from roster.lm.splits import split_at_random
from roster.recipes import find

MODELS = {"gemma-2-2b-it": 2.6, "Meta-Llama-3.1-8B-Instruct": 8.0, "Meta-Llama-3.1-70B-Instruct": 70.6}
"""Billions of parameters."""
SECONDS_PER_BILLION, DEADLINE, REQUESTS, TRACES = 1e-3, 20.0, 400, 6
TRAINED = (0.05, 0.2, 0.8, 2.0)
SLOWEST, FASTEST = 0.015, 2.0


@lru_cache(maxsize=2)
def _ready(draw: Draw) -> tuple[BestEffort, Expected, Records]:
    """(The learned policy, what it expects of the test questions, the test's records)."""
    records = split_at_random(recorded(), seed=draw.ground)
    train, validation, test = (records.split(name) for name in ("train", "validation", "test"))
    estimator = find("lm-knn")({}).estimator.fit(train)
    spread_M = np.log(train.delay_NM / estimator.estimate(train.prompts).delay_NM).std(0)

    def expected(part: Records) -> Expected:
        estimates = estimator.estimate(part.prompts)
        return Expected(estimates.quality_NM, estimates.delay_NM, spread_M)

    learned = find("learned-best-effort")({"deadline": DEADLINE, "rates": TRAINED})
    learned.fit(expected(validation), validation.score_NM, validation.delay_NM, seed=draw.luck)
    return learned, expected(test), test


def _arrivals(rng: np.random.Generator) -> Matrix:
    low, high = np.log(SLOWEST), np.log(FASTEST)
    return changing(REQUESTS, lambda: (float(np.exp(rng.uniform(low, high))), rng.exponential(30.0)), rng)


def _worth(way: str) -> Contender:
    """Mean quality of answers that are in time, over several traces of one ground."""

    def run(draw: Draw) -> float:
        learned, expected, test = _ready(draw)
        found = []
        for number in range(1 if draw.short else TRACES):
            rng = np.random.default_rng([draw.luck, number, 1])
            at, arrival_N = rng.integers(len(test), size=REQUESTS), _arrivals(rng)
            seconds_NM, score_NM = test.delay_NM[at], test.score_NM[at]
            here = expected.rows(at)
            if way == "slower servers":
                seconds_NM = 1.5 * seconds_NM
            if way == "one model":
                played = [serve(arrival_N, seconds_NM, lambda _n, _load, m=m: m) for m in range(len(MODELS))]
            else:
                policy = learned if way == "learned" else BestEffort(DEADLINE, TRAINED)
                played = [policy.serve(arrival_N, here, seconds_NM)]
            found.append([float(gain(served, score_NM, DEADLINE).mean()) for served in played])
        return float(np.mean(found, axis=0).max())

    return run


@cache
def recorded(texts: bool = False) -> Records:
    """The three models' answers to CRUX and GSM8K; `texts` keeps what they said."""
    parts = [data.load(f"zeroeval-{task}").only(tuple(MODELS)) for task in ("crux", "gsm8k")]
    tokens_NM = np.maximum(np.concatenate([part.cost_NM for part in parts]), 1.0)
    return Records(
        name="zeroeval, three models",
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        models=tuple(MODELS),
        score_NM=np.concatenate([part.score_NM for part in parts]),
        cost_NM=tokens_NM * np.array(list(MODELS.values())) if texts else tokens_NM,
        delay_NM=tokens_NM * np.array(list(MODELS.values())) * SECONDS_PER_BILLION,
        datasets=tuple(name for part in parts for name in part.datasets),
        splits=("train",) * len(tokens_NM),
        currency="tokens written",
        answer_NM=np.concatenate([part.answer_NM for part in parts]) if texts else None,
    )


CHECKS = (
    make_check(
        slug="learned-best-effort",
        version=1,
        claim="Under a load that changes, a learned policy over models gives more quality in time than any one model.",
        ground="recorded answers of three models to 2,119 questions, simulated arrivals at a rate that wanders between "
        "0.015 and 2 a second; six traces of 400 requests a seed",
        budget="three servers, one model each, for the policies; one model alone leaves two idle, as in the source, so "
        "the policy without learning, which has all three, is the ablation",
        contenders={
            "learned": ("the policy, searched on other questions", _worth("learned")),
            "one model": ("the best of the three, chosen on the test itself", _worth("one model")),
            "greedy": (
                "the best expected quality times the chance to be in time; nothing is searched",
                _worth("greedy"),
            ),
            "slower servers": ("control: greedy, every answer takes 1.5 times as long", _worth("slower servers")),
        },
        pairs=Pairs("learned", "one model", "greedy", "greedy", "slower servers"),
        statistic=Statistic("mean quality, late answers worth nothing", "higher", 0.01),
    ),
)
