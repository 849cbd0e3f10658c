"""Workload-aware router's claim: with predicted lengths and a learned policy requests wait less than in turn.

Four instances that batch (`Machine`'s defaults: about a model of 7 billion parameters in half precision, each head with
its own keys and values, on an accelerator with 24 GB, 600 GB/s and 70 TFLOP/s). A third each: questions of CRUX and of
GSM8K with the recorded answers of Llama-3.1-8B (ZeroEval), and summaries of news with the recorded ones of Llama-2-7B
(Smoothie's data). Tokens are characters / 4, answers end at 1,024. The articles are not in the data: their lengths are
drawn, log-normal around 850 tokens. Requests come in bursts of three times the calm rate for 5 s, after 15 s of calm on
average. Of the prompts 40 % train the length predictor, 20 % the policy and 40 % are for the test.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm import data
from roster.lm.load.arrivals import bursts
from roster.lm.load.batching import round_robin, serve, shortest_queue
from roster.lm.load.lengths import LengthPredictor
from roster.lm.load.workload import Trace, WorkloadAware
from roster.lm.records import Matrix
from roster.recipes import find

RATE, REQUESTS, TRACES, LONGEST = 9.0, 600, 6, 1024
"""Requests a second while it is calm; 1.5 times as many on average."""
ARTICLE = (np.log(850), 0.5)


@lru_cache(maxsize=2)
def _ready(draw: Draw, told: bool) -> tuple[WorkloadAware, list[Trace]]:
    """(The learned policy, traces to be judged on). Without the predictor all lengths are thought to be the mean."""
    prompts, _, length_N = _pool()
    order_N = np.random.default_rng([draw.ground, 9]).permutation(len(prompts))
    fitting, searching, testing = np.split(order_N, [int(0.4 * len(order_N)), int(0.6 * len(order_N))])
    predicted_N = np.full(len(prompts), length_N[fitting].mean())
    if told:
        predictor = LengthPredictor().fit([prompts[n] for n in fitting], length_N[fitting])
        rest = np.concatenate([searching, testing])
        predicted_N[rest] = predictor.predict([prompts[n] for n in rest])
    learned = find("workload-aware-router")({})

    def drawn(n: int) -> list[Trace]:
        return [_trace(rate, searching, predicted_N, [draw.luck, 0, n, k]) for k, rate in enumerate((5.5, 7.5, RATE))]

    learned.fit(drawn, seed=draw.luck)
    count = 1 if draw.short else TRACES
    return learned, [_trace(RATE, testing, predicted_N, [draw.luck, 1, n]) for n in range(count)]


def _delay(way: str, quicker: float = 1.0) -> Contender:
    """Mean seconds from a request to the end of its answer; `quicker` stretches the time between requests."""

    def run(draw: Draw) -> float:
        learned, traces = _ready(draw, way != "unpredicted")
        found = []
        for trace in traces:
            routers: dict[str, Any] = {"round robin": round_robin, "shortest queue": shortest_queue}
            router = routers.get(way) or learned.router(trace)
            arrival_N = trace.arrival_N * quicker
            served = serve(arrival_N, trace.prompt_N, trace.answer_N, router, learned.instances, learned.machine)
            found.append(float(served.delay_N.mean()))
        return float(np.mean(found))

    return run


def _trace(rate: float, among: NDArray[np.int64], predicted_N: Matrix, dice: list[int]) -> Trace:
    prompts, kind_N, length_N = _pool()
    rng = np.random.default_rng(dice)
    by_kind = [among[kind_N[among] == kind] for kind in range(3)]
    at = np.array([rng.choice(by_kind[kind]) for kind in rng.integers(3, size=REQUESTS)])
    written = np.array([len(prompts[n]) / 4 for n in at])
    article = rng.lognormal(*ARTICLE, REQUESTS).clip(50, 6000)
    prompt_N = np.where(kind_N[at] == 2, article, written).clip(1).astype(int)
    return Trace(
        bursts(REQUESTS, (rate, 15.0), (3 * rate, 5.0), rng), prompt_N, length_N[at].astype(int), predicted_N[at]
    )


@cache
def _pool() -> tuple[list[str], NDArray[np.int64], Matrix]:
    """(prompts, kind of each, tokens of the recorded answer)."""
    prompts, kinds, lengths = [], [], []
    for kind, name in enumerate(("zeroeval-crux", "zeroeval-gsm8k", "smoothie-cnn")):
        records = data.load(name)
        if name == "smoothie-cnn":
            column = records.answer_NM[:, records.column("llama-2-7b")]
            length_N = np.array([len(answer) / 4 for answer in column])
        else:
            length_N = records.cost_NM[:, records.column("Meta-Llama-3.1-8B-Instruct")]
        prompts += records.prompts
        kinds += [kind] * len(records)
        lengths.append(length_N.clip(1, LONGEST))
    return prompts, np.array(kinds), np.concatenate(lengths)


CHECKS = (
    make_check(
        slug="workload-aware-router",
        version=1,
        claim="A learned policy that reads predicted lengths has less mean delay than round robin.",
        ground="simulated: four batching instances, bursts of mixed recorded work at a heavy load; six traces of 600 "
        "requests a seed",
        budget="the same instances and the same requests",
        contenders={
            "learned": ("the learned policy, lengths predicted from the prompts", _delay("learned")),
            "round robin": ("each instance in its turn", _delay("round robin")),
            "unpredicted": ("the learned policy, every answer is thought to be of mean length", _delay("unpredicted")),
            "shortest queue": ("the instance with the fewest requests", _delay("shortest queue")),
            "calmer": ("control: round robin, 6 % more time between requests", _delay("round robin", 1.06)),
        },
        pairs=Pairs("learned", "round robin", "unpredicted", "calmer", "round robin"),
        statistic=Statistic("mean seconds from request to answer", "lower", 0.1),
    ),
)
