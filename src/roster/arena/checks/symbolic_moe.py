"""Symbolic-MoE: recruiting by a prompt's skills beats the best model of its task, and a random one.

Simulated: three tasks, eight skills; a prompt names two skills drawn with its task's own chances and words that mean
nothing. Six models are right with chance sigmoid(mean of their levels in the two skills), levels drawn from a normal
distribution of deviation 1.5. 300 prompts per task to learn from, 200 others to judge on. The task's best model is the
one with the highest mean score on the task's training prompts. Aggregating several recruits' answers, the other half
of the source's method, is not part of roster's recipe and not checked.
"""

from __future__ import annotations

import numpy as np

from roster.arena.checks.simulated_models import choices, mean_of
from roster.lm.records import Matrix, Records
from roster.recipes import find

SKILLS = ("algebra", "geometry", "history", "chemistry", "grammar", "logic", "probability", "anatomy")
FILLER = ("please", "consider", "carefully", "question", "about", "explain", "answer", "following", "problem", "find")
TASKS, MODELS, LEARN, JUDGE = 3, 6, 300, 200


def check(seed: int) -> dict[str, float]:
    """Qualities on other prompts."""
    rng = np.random.default_rng(seed)
    level_SM = rng.normal(0, 1.5, (len(SKILLS), MODELS))
    share_TS = rng.dirichlet(np.full(len(SKILLS), 2.0), TASKS)
    learn, _ = _records(LEARN, level_SM, share_TS, rng)
    judge, chance_NM = _records(JUDGE, level_SM, share_TS, rng)
    fitted = find("symbolic-moe").compose().fit(learn)
    task_N, tasks = np.array(learn.datasets), sorted(set(learn.datasets))
    best = {task: int(learn.score_NM[task_N == task].mean(0).argmax()) for task in tasks}
    return {
        "quality, by skills": mean_of(chance_NM, choices(fitted, judge)),
        "quality, best model of the task": mean_of(chance_NM, np.array([best[task] for task in judge.datasets])),
        "quality, random": float(chance_NM.mean()),
        "quality, oracle": float(chance_NM.max(1).mean()),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed recruiting by skills beats the task's best model, and that a random one; in the mean over seeds the
    gain is at least half of what an oracle would have over the task's best model."""
    gains = []
    for each in figures:
        mine, task = each["quality, by skills"], each["quality, best model of the task"]
        if not mine > task > each["quality, random"]:
            return False
        gains.append((mine - task) / (each["quality, oracle"] - task))
    return float(np.mean(gains)) >= 0.5


def _records(count: int, level_SM: Matrix, share_TS: Matrix, rng: np.random.Generator) -> tuple[Records, Matrix]:
    prompts, chances, names = [], [], []
    for task, share_S in enumerate(share_TS):
        for _ in range(count):
            skills = rng.choice(len(SKILLS), 2, replace=False, p=share_S)
            words = [*rng.choice(FILLER, 6), *(SKILLS[s] for s in skills), str(rng.integers(10_000))]
            prompts.append(" ".join(rng.permutation(words)))
            chances.append(1 / (1 + np.exp(-level_SM[skills].mean(0))))
            names.append(f"task {task}")
    chance_NM = np.array(chances)
    shape = chance_NM.shape
    records = Records(
        name="simulated skills",
        prompts=tuple(prompts),
        models=tuple(f"model-{m}" for m in range(MODELS)),
        score_NM=(rng.random(shape) < chance_NM).astype(float),
        cost_NM=np.full(shape, 1.0),
        delay_NM=np.full(shape, np.nan),
        datasets=tuple(names),
        splits=("train",) * len(prompts),
    )
    return records, chance_NM
