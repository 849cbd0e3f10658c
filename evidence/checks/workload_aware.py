"""Workload-aware router: less mean delay than round robin and than joining the shortest queue, on bursts of mixed work.

Four instances that batch (`Machine`'s defaults: about a model of 7 billion parameters in half precision, each head with
its own keys and values, on an accelerator with 24 GB, 600 GB/s and 70 TFLOP/s). A third each: questions of CRUX and of
GSM8K with the recorded answers of Llama-3.1-8B (ZeroEval), and summaries of news with the recorded ones of Llama-2-7B
(Smoothie's data). Tokens are characters / 4, answers end at 1,024. The articles are not in the data: their lengths are
drawn, log-normal around 850 tokens. Requests come in bursts of three times the calm rate for 5 s, after 15 s of calm on
average. Of the prompts 40 % train the length predictor, 20 % the policy and 40 % are for the test: six traces of 600
requests at each of three loads; all routers see the same.
The rule stood before the first run; the figures of "least full" came after it and decide nothing.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from roster.lm import data
from roster.lm.load.arrivals import bursts
from roster.lm.load.batching import round_robin, serve, shortest_queue
from roster.lm.load.lengths import LengthPredictor
from roster.lm.load.workload import FEATURES, HEURISTIC_F, Trace, WorkloadAware
from roster.lm.records import Matrix
from roster.recipes import find

LOADS = {"light": 5.5, "medium": 7.5, "heavy": 9.0}
"""Requests a second while it is calm; 1.5 times as many on average."""
LEAST_FULL_F = np.array([name == "fullness" for name in FEATURES], dtype=float)
"""The plainest use of predicted lengths: the instance with the fewest tokens that are or will be held."""
REQUESTS, TRACES, LONGEST = 600, 6, 1024
ARTICLE = (np.log(850), 0.5)


def check(seed: int) -> dict[str, float]:
    """Mean delays in seconds, and how well lengths are predicted."""
    prompts, _, length_N = _pool()
    order_N = np.random.default_rng(seed).permutation(len(prompts))
    fitting, searching, testing = np.split(order_N, [int(0.4 * len(order_N)), int(0.6 * len(order_N))])
    predictor = LengthPredictor().fit([prompts[n] for n in fitting], length_N[fitting])
    predicted_N = np.full(len(prompts), np.nan)
    rest = np.concatenate([searching, testing])
    predicted_N[rest] = predictor.predict([prompts[n] for n in rest])
    learned = find("workload-aware-router")({})

    def draw(n: int) -> list[Trace]:
        return [_trace(rate, searching, predicted_N, [seed, 0, n, k]) for k, rate in enumerate(LOADS.values())]

    learned.fit(draw, seed=seed)
    bucket_N = predictor.bucket(length_N[testing])
    guess_N = predictor.chances([prompts[n] for n in testing]).argmax(1)
    figures = {
        "length: bucket right": float((guess_N == bucket_N).mean()),
        "length: correlation": float(np.corrcoef(predicted_N[testing], length_N[testing])[0, 1]),
    }
    for k, (load, rate) in enumerate(LOADS.items()):
        traces = [_trace(rate, testing, predicted_N, [seed, 1, n, k]) for n in range(TRACES)]
        figures |= {f"{load}: delay, {name}": value for name, value in _delays(learned, traces).items()}
    for rival in ("round robin", "shortest queue"):
        saved = [1 - figures[f"{load}: delay, learned"] / figures[f"{load}: delay, {rival}"] for load in LOADS]
        figures[f"saved, against {rival}"] = float(np.mean(saved))
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """The mean delay is below round robin's and the shortest queue's at every load in the mean over seeds, and over the
    loads together in every seed."""
    rivals = ("round robin", "shortest queue")
    mean = {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}
    return all(
        mean[f"{load}: delay, learned"] < mean[f"{load}: delay, {rival}"] for load in LOADS for rival in rivals
    ) and all(each[f"saved, against {rival}"] > 0 for each in figures for rival in rivals)


def _delays(learned: WorkloadAware, traces: list[Trace]) -> dict[str, float]:
    delays: dict[str, list[float]] = {}
    for trace in traces:
        known = Trace(trace.arrival_N, trace.prompt_N, trace.answer_N, trace.answer_N.astype(float))
        routers = {
            "learned": learned.router(trace),
            "round robin": round_robin,
            "shortest queue": shortest_queue,
            "heuristic": learned.router(trace, HEURISTIC_F),
            "least full": learned.router(trace, LEAST_FULL_F),
            "learned, told the true lengths": learned.router(known),
        }
        for name, router in routers.items():
            served = serve(trace.arrival_N, trace.prompt_N, trace.answer_N, router, learned.instances, learned.machine)
            delays.setdefault(name, []).append(float(served.delay_N.mean()))
    return {name: float(np.mean(each)) for name, each in delays.items()}


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
