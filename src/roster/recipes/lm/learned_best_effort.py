"""Learned best-effort serving: the busier the models, the less quality a request is given, as a policy learned it.

Equation: model = argmax_m  quality_m(x) P(in time_m)^caution - price(load) (1 + crowd count_m) seconds_m(x)
Shapes: quality and seconds [N, M] from any estimator; one price per knot of the arrival rate.
Trains: prices, caution and crowd, by the cross-entropy method on simulated traces at several arrival rates.
Siblings: CARROT has a fixed price, on money instead of time.
Source: Jha, Hooper, Liu, Kim, Keutzer, 2024, "Learned Best-Effort LLM Serving", arXiv:2401.07886.
Differences: the paper trains a small network by double deep Q-learning on the task's number, the batch sizes and the
    arrival rate; this policy has a handful of coefficients that people can read, and policy search finds them. It is
    told estimates from the prompt's text instead of the task's number. Models serve one request at a time, the paper's
    in batches. An answer after the deadline is worth nothing (the paper also has soft deadlines).
    On the check's traces most of the gain over one static model comes from using all servers with deadlines in mind;
    what is learned adds up to 0.05 of quality to that under high load, and nothing under low load.
"""

from __future__ import annotations

from roster.lm.load.best_effort import BestEffort
from roster.recipes.recipe import Recipe


def learned_best_effort(deadline: float = 20.0, rates: tuple[float, ...] = (0.05, 0.2, 0.8, 2.0)) -> BestEffort:
    """A policy to be fit; `BestEffort.scheduler` is what a queue, or whoever knows the requests in flight, asks.

    Args:
        deadline: seconds from arrival to the complete answer.
        rates: requests a second that it is trained at, and between which its prices are interpolated.
    """
    return BestEffort(deadline, rates)


RECIPE = Recipe(
    slug="learned-best-effort",
    title="Learned best-effort serving",
    source="Jha et al., 2024, Learned Best-Effort LLM Serving, arXiv:2401.07886",
    compose=learned_best_effort,
    trains="router",
    batch_invariant=False,
    claim="Availability at over 10 times the request rate of static serving of the large model, near the best quality.",
    evidence="docs/results/claims.md",
    needs=("training",),
    kind="study",
)
