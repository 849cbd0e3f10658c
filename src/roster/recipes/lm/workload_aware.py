"""Workload-aware router: requests go where the latency that they add, to themselves and to others, is least.

Equation: instance = argmin_i  sum_f w_f f_i(request): seconds of reading, of stalls by the prompt, of mixing with
    running answers, of waiting for memory (w starts at 1), and the instance's fullness (w starts at 0).
Shapes: four times, a share and a count per instance.
Trains: a predictor of answer lengths on prompts (`LengthPredictor`), and w by the cross-entropy method on simulated
    traces.
Siblings: Learned best effort chooses among models; here all instances run the same one.
Source: Jain, Parayil, Mallick, Choukse, Qin, Zhang, Goiri, Wang, Bansal, Rühle, Kulkarni, Kofsky, Rajmohan, 2024,
    "Intelligent Router for LLM Workloads: Improving Performance Through Workload-Aware Scheduling", arXiv:2408.13510.
Differences: the paper guides deep reinforcement learning by a heuristic; here the heuristic is where a policy search
    starts and the form of what it searches. The latency model is our own, of the simulator's iterations. Lengths are
    predicted by a logistic regression into buckets over TF-IDF, where the paper fine-tunes DistilBERT. Requests are
    assigned at once, on arrival. On the check's traces 8 % of the mean delay are saved against round robin and 7 %
    against the shortest queue; true lengths instead of predicted ones would not save more.
"""

from __future__ import annotations

from roster.lm.load.batching import Machine
from roster.lm.load.workload import WorkloadAware
from roster.recipes.recipe import Recipe


def workload_aware(
    instances: int = 4,
    base: float = 0.025,
    prefill: float = 2e-4,
    decode: float = 1e-4,
    context: float = 8e-7,
    memory: int = 15_000,
) -> WorkloadAware:
    """A router to be fit; without it is the heuristic.

    Args:
        instances: of the model.
        base, prefill, decode, context: seconds of an iteration, per token read, per running answer, per token held.
        memory: tokens that an instance holds.
    """
    return WorkloadAware(Machine(base, prefill, decode, context, memory), instances)


RECIPE = Recipe(
    slug="workload-aware-router",
    title="Workload-aware router",
    source="Jain et al., 2024, Intelligent Router for LLM Workloads: Improving Performance Through Workload-Aware "
    "Scheduling, arXiv:2408.13510",
    compose=workload_aware,
    trains="router",
    batch_invariant=False,
    claim="Lower end-to-end latency than existing ways of balancing load; over 11 % in the paper.",
    evidence="docs/results/claims.md",
    needs=("training",),
    kind="study",
)
