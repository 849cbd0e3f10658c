"""Symbolic-MoE: recruits by a prompt's skills beat the best of its task, alone and as a panel whose answers are joined.

Simulated: three tasks, eight skills; a prompt names two skills drawn with its task's own chances and words that mean
nothing. Six models are right with chance sigmoid(mean of their levels in the two skills), levels drawn from a normal
distribution of deviation 1.5. 300 prompts per task to learn from, 200 others to judge on. The task's best model is the
one with the highest mean score on the task's training prompts.

Panels of three (`roster.lm.panel`): a wrong answer is one of six of its prompt; ten draws of all answers to the
prompts that are judged. Joined by a vote, or by an aggregator: given answers of which one is right, model m ends with
it with a chance of its own, drawn from 0.3 to 0.95 whatever it solves, and else with one of those given at random. The
ablest one per task is found by trials on training prompts, one right answer and two wrong ones. The rival, in the
source a panel that is the same for all prompts, is the task's three best models.

The first version of this check had no panels; its rule is kept as part of this one. CRUX (51 models, a random 60 %
of the prompts to learn from) stands beside it and decides nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evidence.checks.simulated_models import choices, mean_of
from roster.lm import data
from roster.lm.aggregation import ability, best_aggregators, trials
from roster.lm.panel import Panel, vote
from roster.lm.records import Matrix, Records
from roster.lm.routing import Routing
from roster.recipes import find

SKILLS = ("algebra", "geometry", "history", "chemistry", "grammar", "logic", "probability", "anatomy")
FILLER = ("please", "consider", "carefully", "question", "about", "explain", "answer", "following", "problem", "find")
TASKS, MODELS, LEARN, JUDGE = 3, 6, 300, 200
RECRUITS, DRAWS, WRONG = 3, 10, 6


def check(seed: int) -> dict[str, float]:
    """Qualities on other prompts."""
    rng = np.random.default_rng(seed)
    level_SM = rng.normal(0, 1.5, (len(SKILLS), MODELS))
    share_TS = rng.dirichlet(np.full(len(SKILLS), 2.0), TASKS)
    learn, _ = _records(LEARN, level_SM, share_TS, rng)
    judge, chance_NM = _records(JUDGE, level_SM, share_TS, rng)
    fitted = find("symbolic-moe").compose().fit(learn)
    task_N, tasks = np.array(learn.datasets), sorted(set(learn.datasets))
    mean_TM = np.array([learn.score_NM[task_N == task].mean(0) for task in tasks])
    best = {task: int(mean_M.argmax()) for task, mean_M in zip(tasks, mean_TM, strict=True)}
    figures = {
        "quality, by skills": mean_of(chance_NM, choices(fitted, judge)),
        "quality, best model of the task": mean_of(chance_NM, np.array([best[task] for task in judge.datasets])),
        "quality, random": float(chance_NM.mean()),
        "quality, oracle": float(chance_NM.max(1).mean()),
    }
    at_N = np.array([tasks.index(task) for task in judge.datasets])
    return figures | _panels(fitted, learn, judge, chance_NM, mean_TM[at_N], rng) | _recorded(seed)


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed recruiting one by skills beats the task's best model, and that a random one; a vote of three by
    skills beats one by skills, a vote of the task's three best and one of three random ones; read by the ablest
    aggregator, three by skills beat the task's three best; and for a vote no model is loaded twice. In the mean over
    seeds the gain of one by skills over the task's best model is at least half of what an oracle's would be, and the
    ablest aggregator beats the task's best solver in its place."""
    gains, abler = [], []
    for each in figures:
        one, task = each["quality, by skills"], each["quality, best model of the task"]
        voted, read = each["vote, three by skills"], each["ablest aggregator, three by skills"]
        if not one > task > each["quality, random"]:
            return False
        if voted <= max(one, each["vote, the task's three best"], each["vote, three at random"]):
            return False
        if read <= each["ablest aggregator, the task's three best"] or each["loads of a model, at most: vote"] > 1:
            return False
        gains.append((one - task) / (each["quality, oracle"] - task))
        abler.append(read - each["best solver as aggregator, three by skills"])
    return float(np.mean(gains)) >= 0.5 and float(np.mean(abler)) > 0


def _panels(
    fitted: Routing, learn: Records, judge: Records, chance_NM: Matrix, worth_NM: Matrix, rng: np.random.Generator
) -> dict[str, float]:
    names, able_M = learn.models, rng.uniform(0.3, 0.95, MODELS)

    def aggregate(model, prompts, answers):
        knows_N = rng.random(len(prompts)) < able_M[names.index(model)]
        return [
            "right" if "right" in each and knows else str(rng.choice([a for a in each if a is not None]))
            for each, knows in zip(answers, knows_N, strict=True)
        ]

    ablest = best_aggregators(ability(trials(_answered(learn, learn.score_NM > 0, rng)), names, aggregate))
    solver = {task: names[int(worth_NM[judge.datasets.index(task)].argmax())] for task in ablest}
    fixed_NK = np.argsort(-worth_NM, axis=1)[:, :RECRUITS]
    rows: dict[str, list[float]] = {}
    loads = 0
    for _ in range(DRAWS):
        drawn = _answered(judge, rng.random(chance_NM.shape) < chance_NM, rng)
        at = dict(zip(drawn.prompts, drawn.answer_NM, strict=True))
        asked: list[str] = []

        def ask(model, prompts, at=at, asked=asked):
            asked.append(model)
            return [at[prompt][names.index(model)] for prompt in prompts]

        said = {"vote, three by skills": Panel(fitted, RECRUITS).answer(drawn.prompts, ask)}
        loads = max(loads, *(asked.count(name) for name in names))
        for which, aggregators in (("ablest", ablest), ("best solver as", solver)):
            panel = Panel(fitted, RECRUITS, aggregators)
            said[f"{which} aggregator, three by skills"] = panel.answer(drawn.prompts, ask, aggregate, drawn.datasets)
        random_NK = rng.permuted(np.tile(np.arange(MODELS), (len(drawn), 1)), axis=1)[:, :RECRUITS]
        for which, chosen_NK in (("the task's three best", fixed_NK), ("three at random", random_NK)):
            said[f"vote, {which}"] = _voted(drawn, chosen_NK, worth_NM)
        heard_NK = np.take_along_axis(drawn.answer_NM, fixed_NK, axis=1)
        said["ablest aggregator, the task's three best"] = [
            aggregate(ablest[task], [prompt], [heard.tolist()])[0]
            for task, prompt, heard in zip(drawn.datasets, drawn.prompts, heard_NK, strict=True)
        ]
        for name, answers in said.items():
            rows.setdefault(name, []).append(float(np.mean([answer == "right" for answer in answers])))
    naive = np.count_nonzero(np.diff(Panel(fitted, RECRUITS).plan(judge.prompts).chosen_NK.ravel())) + 1
    turns = [turn.model for turn in Panel(fitted, RECRUITS, ablest).plan(judge.prompts, judge.datasets).turns]
    return {name: float(np.mean(each)) for name, each in rows.items()} | {
        "loads of a model, at most: vote": float(loads),
        "loads of a model, at most: an aggregator per task": float(max(turns.count(name) for name in names)),
        "loads in all, by turns": float(len(turns)),
        "loads in all, prompt by prompt": float(naive),
    }


def _voted(records: Records, chosen_NK: np.ndarray, worth_NM: Matrix) -> list[str]:
    answer_NK = np.take_along_axis(records.answer_NM, chosen_NK, axis=1)
    winner_N = vote(answer_NK, np.take_along_axis(worth_NM, chosen_NK, axis=1))
    return answer_NK[np.arange(len(records)), winner_N].tolist()


def _answered(records: Records, right_NM: np.ndarray, rng: np.random.Generator) -> Records:
    wrong_NM = np.char.add("wrong ", rng.integers(WRONG, size=right_NM.shape).astype(str))
    answer_NM = np.where(right_NM, "right", wrong_NM).astype(object)
    return replace(records, answer_NM=answer_NM, score_NM=right_NM.astype(float))


def _recorded(seed: int) -> dict[str, float]:
    records = data.load("zeroeval-crux")
    order_N = np.random.default_rng([seed, 7]).permutation(len(records))
    learn, judge = (records.rows(part) for part in np.split(order_N, [round(0.6 * len(records))]))
    fitted = find("symbolic-moe").compose().fit(learn)
    order = np.argsort(-learn.score_NM.mean(0), kind="stable")
    best_NK = np.tile(order[:RECRUITS], (len(judge), 1))
    weight_NM = np.tile(learn.score_NM.mean(0), (len(judge), 1))
    voted_N = vote(np.take_along_axis(judge.answer_NM, best_NK, 1), np.take_along_axis(weight_NM, best_NK, 1))
    return {
        "recorded (CRUX): one by skills": float(Panel(fitted, 1).play(judge).score_N.mean()),
        "recorded (CRUX): vote, three by skills": float(Panel(fitted, RECRUITS).play(judge).score_N.mean()),
        "recorded (CRUX): best single": float(judge.score_NM[:, order[0]].mean()),
        "recorded (CRUX): vote, the three best": mean_of(judge.score_NM, order[voted_N]),
    }


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
