"""Symbolic-MoE's claim: recruits by a prompt's skills beat the recruits that are best for its task.

Simulated: three tasks, eight skills; a prompt names two skills drawn with its task's own chances and words that mean
nothing. Six models are right with chance sigmoid(mean of their levels in the two skills), levels drawn from a normal
distribution of deviation 1.5. 300 prompts per task to learn from, 200 others to judge on. A panel of three votes; a
wrong answer is one of six of its prompt; ten draws of all answers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm.panel import Panel, vote
from roster.lm.records import Matrix, Records
from roster.recipes import find

SKILLS = ("algebra", "geometry", "history", "chemistry", "grammar", "logic", "probability", "anatomy")
FILLER = ("please", "consider", "carefully", "question", "about", "explain", "answer", "following", "problem", "find")
TASKS, MODELS, LEARN, JUDGE = 3, 6, 300, 200
RECRUITS, DRAWS, WRONG = 3, 10, 6


@lru_cache(maxsize=2)
def _world(draw: Draw) -> tuple[Records, Records, Matrix]:
    """(To learn from, to be judged on, the true chances there)."""
    rng = np.random.default_rng([draw.ground, 0])
    level_SM = rng.normal(0, 1.5, (len(SKILLS), MODELS))
    share_TS = rng.dirichlet(np.full(len(SKILLS), 2.0), TASKS)
    learn, _ = _records(LEARN, level_SM, share_TS, np.random.default_rng([draw.luck, 1]))
    judge, chance_NM = _records(JUDGE, level_SM, share_TS, np.random.default_rng([draw.luck, 2]))
    return learn, judge, chance_NM


def _voted(way: str) -> Contender:
    """Share of right answers of a vote of three."""

    def run(draw: Draw) -> float:
        learn, judge, chance_NM = _world(draw)
        task_N = np.array(learn.datasets)
        mean_TM = {task: learn.score_NM[task_N == task].mean(0) for task in set(learn.datasets)}
        worth_NM = np.stack([mean_TM[task] for task in judge.datasets])
        if way in ("skills", "blind"):
            if way == "blind":
                order_N = np.random.default_rng([draw.luck, 3]).permutation(len(learn))
                learn = replace(learn, prompts=tuple(learn.prompts[n] for n in order_N))
            plan = Panel(find("symbolic-moe").compose().fit(learn), RECRUITS).plan(judge.prompts)
            chosen_NK, weight_NK = plan.chosen_NK, plan.weight_NK
        else:
            if way == "told":  # of a fifth of the prompts who knows
                some_N1 = np.random.default_rng([draw.luck, 5]).random((len(judge), 1)) < 0.2
                worth_NM = np.where(some_N1, chance_NM, worth_NM)
            chosen_NK = np.argsort(-worth_NM, axis=1)[:, :RECRUITS]
            weight_NK = np.take_along_axis(worth_NM, chosen_NK, axis=1)
        rng, found = np.random.default_rng([draw.luck, 4]), []
        for _ in range(DRAWS):
            right_NM = rng.random(chance_NM.shape) < chance_NM
            wrong_NM = np.char.add("wrong ", rng.integers(WRONG, size=chance_NM.shape).astype(str))
            answer_NM = np.where(right_NM, "right", wrong_NM).astype(object)
            said_NK = np.take_along_axis(answer_NM, chosen_NK, axis=1)
            found.append(float((said_NK[np.arange(len(judge)), vote(said_NK, weight_NK)] == "right").mean()))
        return float(np.mean(found))

    return run


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


CHECKS = (
    make_check(
        slug="symbolic-moe",
        version=1,
        claim="Three models recruited by a prompt's skills, and a vote, beat the same three models for a whole task.",
        ground="simulated: three tasks, eight skills, six models; prompts name two skills among other words; 900 "
        "prompts to learn from, judged on 600 others",
        budget="three answers and a vote for all; the same records",
        contenders={
            "by skills": ("the three best by the prompt's skills", _voted("skills")),
            "by task": ("the three best of the prompt's task, which is told", _voted("task")),
            "blind": ("by skills, learned beside shuffled prompts", _voted("blind")),
            "told": ("control: by task, but by the true chances for a fifth of the prompts", _voted("told")),
        },
        pairs=Pairs("by skills", "by task", "blind", "told", "by task"),
        statistic=Statistic("share of right answers", "higher", 0.01),
    ),
)
