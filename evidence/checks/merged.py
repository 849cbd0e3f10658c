"""Claims about whole models merged into one: Fisher, RegMean, AdaMerging, aTLAS, Model Breadcrumbs.

What counts is the loss of answers, in nats per letter, on tasks that the merged models were each trained for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from evidence.grounds.relatives import TASKS, folder, load, loss, merged, texts_of, train
from evidence.protocol.check import Check, Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.weights.texts import Texts

ALL = tuple(TASKS)
FOUR, FEW, MANY, TARGET = ALL[:4], ALL[:2], ALL[:6], ALL[6]
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
SHOTS, LEARNED = 16, 100


def loss_of(
    method: str, texts: Callable[[Draw], Sequence[Texts]] | None = None, tasks: Sequence[str] = FOUR, **settings: Any
) -> Contender:
    """Loss on the tasks of the models that were merged."""

    def run(draw: Draw) -> float:
        given = () if texts is None else texts(draw)
        if "steps" in settings:
            return loss(merged(method, draw, tasks, given, **{**settings, "steps": draw.steps(LEARNED)}), draw, tasks)
        return loss(merged(method, draw, tasks, given, **settings), draw, tasks)

    return run


def _own(draw: Draw) -> list[Texts]:
    return [texts_of(draw, task) for task in FOUR]


def _experts(draw: Draw) -> float:
    return loss([load(folder(draw, task)) for task in FOUR], draw, FOUR)


MEAN = loss_of("linear", weight=1.0)
FISHER = loss_of("fisher", _own)
REGMEAN = loss_of("regmean", _own)


def _plain_or_fisher(draw: Draw) -> float:
    """The better of the two, chosen on the test."""
    return min(MEAN(draw), FISHER(draw))


def unasked(draw: Draw) -> list[Texts]:
    """Prompts without answers."""
    return [texts_of(draw, task, answers=False) for task in FOUR]


def _one_unasked(draw: Draw) -> list[Texts]:
    """As many prompts of one task, which is none of the merged models'."""
    return [texts_of(draw, ALL[4], answers=False, salt=each) for each in range(len(FOUR))]


def best_coefficient(draw: Draw) -> float:
    """One coefficient for all, the best one on the test; of models that were trained on whole rows."""
    return min(loss(merged("task_arithmetic", draw, FOUR, whole=True, weight=weight), draw, FOUR) for weight in GRID)


def whole_experts(draw: Draw) -> float:
    """Every task by its own model, trained on whole rows."""
    return loss([load(folder(draw, task, whole=True)) for task in FOUR], draw, FOUR)


def _shots(draw: Draw) -> list[Texts]:
    return [texts_of(draw, TARGET, SHOTS)]


def _composed(block: str) -> Contender:
    """Loss on a task that no merged model was trained for, by coefficients that its few rows taught."""

    def run(draw: Draw) -> float:
        settings = {"block": block, "steps": draw.steps(LEARNED), "rate": 0.1}
        return loss(merged("atlas", draw, FOUR, _shots(draw), **settings), draw, [TARGET])

    return run


def _trained(draw: Draw) -> float:
    """The base, trained whole on the few rows; of three rates the best one on the test."""
    ids_BS = _shots(draw)[0].ids_BS
    return min(
        loss(train(load(folder(draw)), lambda: ids_BS, draw.steps(LEARNED), rate), draw, [TARGET])
        for rate in (3e-4, 1e-3, 3e-3)
    )


def _expert(draw: Draw) -> float:
    return loss(load(folder(draw, TARGET)), draw, [TARGET])


def _one_each_or_trained(draw: Draw) -> float:
    """The better one, chosen on the test."""
    return min(_composed("model")(draw), _trained(draw))


@lru_cache(maxsize=256)
def _at(draw: Draw, method: str, count: int, weight: float, beta: float = 0.0, gamma: float = 0.0) -> float:
    """Loss of so many tasks' models merged at a setting, on those tasks."""
    tasks = MANY[:count]
    settings = {"beta": beta, "gamma": gamma} if beta else {}
    return loss(merged(method, draw, tasks, weight=weight, **settings), draw, tasks)


def _kept(method: str, settings: Sequence[tuple[float, ...]], tuned: int) -> Contender:
    """What is lost, with six tasks, by the settings that are best for fewer: loss above the best settings' own."""

    def run(draw: Draw) -> float:
        ground = Draw(draw.ground, draw.ground, draw.short)  # nothing is drawn by luck
        grid = settings[:2] if draw.short else settings
        best = min(grid, key=lambda each: _at(ground, method, tuned, *each))
        return _at(ground, method, len(MANY), *best) - min(_at(ground, method, len(MANY), *each) for each in grid)

    return run


def _untuned(draw: Draw) -> float:
    """What a weight of 1 loses with six tasks."""
    ground = Draw(draw.ground, draw.ground, draw.short)
    each = [_at(ground, "task_arithmetic", len(MANY), weight) for weight in GRID]
    return each[GRID.index(1.0)] - min(each)


WHOLE = "; all of them learned whole rows, and not answers alone"
CRUMBS = [(weight, beta, gamma) for weight in GRID[1:] for beta, gamma in ((0.2, 0.1), (0.8, 0.05))]
PLAIN = [(weight,) for weight in GRID]
GROUND = (
    "a Llama of two layers, width 32, that copies five letters, and {} models trained on from it, one a task on letters"
)


def _claim(
    slug: str,
    claim: str,
    budget: str,
    contenders: dict[str, tuple[str, Contender]],
    pairs: Pairs,
    effect: float = 0.05,
    what: str = "nats per letter of answers, the mean of the tasks",
    count: str = "four",
    more: str = "",
    version: int = 1,
) -> Check:
    return make_check(
        slug=slug,
        version=version,
        claim=claim,
        ground=GROUND.format(count) + more,
        budget=budget,
        contenders=contenders,
        pairs=pairs,
        statistic=Statistic(what, "lower", effect),
    )


EXPERTS: tuple[str, Contender] = ("control: every task by its own model", _experts)

CHECKS = (
    _claim(
        "fisher",
        "A mean weighted by Fisher information is better than the plain mean.",
        "one model of the base's size; 64 rows a model for its information",
        {
            "Fisher": ("each weight by how much each model's answers depend on it", FISHER),
            "mean": ("the plain mean of the four", MEAN),
            "experts": EXPERTS,
        },
        Pairs("Fisher", "mean", "mean", "experts", "mean"),
    ),
    _claim(
        "regmean",
        "Linear layers merged by least squares on what they read beat the plain and the Fisher-weighted mean.",
        "one model of the base's size; 64 rows a model",
        {
            "RegMean": ("least squares on what each model's layers read", REGMEAN),
            "plain or Fisher": ("the better of the two means, chosen on the test", _plain_or_fisher),
            "diagonal": ("entries off the diagonal left out", loss_of("regmean", _own, reduction=0.0)),
            "experts": EXPERTS,
            "mean": ("the plain mean of the four", MEAN),
        },
        Pairs("RegMean", "plain or Fisher", "diagonal", "experts", "mean"),
    ),
    _claim(
        "adamerging",
        "Coefficients that lower the entropy of answers, learned without labels, beat one coefficient for all.",
        f"one model of the base's size; 64 prompts of each task without answers, {LEARNED} steps at a rate of 0.01",
        {
            "AdaMerging": (
                "a coefficient for each tensor and model, by the entropy of prompts",
                loss_of("adamerging", unasked, whole=True, steps=LEARNED, rate=0.01),
            ),
            "one coefficient": ("the best one of eight for all, chosen on the test", best_coefficient),
            "other prompts": (
                "the same by prompts of a task that none of them knows",
                loss_of("adamerging", _one_unasked, whole=True, steps=LEARNED, rate=0.01),
            ),
            "experts": ("control: every task by its own model", whole_experts),
        },
        Pairs("AdaMerging", "one coefficient", "other prompts", "experts", "one coefficient"),
        more=WHOLE,
        version=2,  # the models of version 1 had learned answers alone, and meant nothing at most of a prompt's places
    ),
    _claim(
        "atlas",
        "A few examples learn a coefficient for each tensor that beats one for each vector, and full training.",
        f"{SHOTS} rows of a fifth task, which joins two of the four; {LEARNED} steps",
        {
            "aTLAS": ("a coefficient for each tensor and model", _composed("tensor")),
            "vectors or training": (
                "the better of one coefficient for each model and full training, chosen on the test",
                _one_each_or_trained,
            ),
            "by vector": ("one coefficient for each model", _composed("model")),
            "expert": (
                "control: a model trained on the task",
                lambda draw: loss(load(folder(draw, TARGET)), draw, [TARGET]),
            ),
        },
        Pairs("aTLAS", "vectors or training", "by vector", "expert", "vectors or training"),
        what="nats per letter of answers to the fifth task",
    ),
    _claim(
        "model-breadcrumbs",
        "Hyper-parameters found for few tasks keep working as tasks grow, where task arithmetic's do not.",
        "fourteen settings of breadcrumbs, eight of task arithmetic; chosen on the test in both",
        {
            "breadcrumbs": ("settings that are best for two tasks", _kept("model-breadcrumbs", CRUMBS, 2)),
            "task arithmetic": ("the weight that is best for two tasks", _kept("task_arithmetic", PLAIN, 2)),
            "tuned": ("control: the weight that is best for six tasks", _kept("task_arithmetic", PLAIN, 6)),
            "untuned": ("control: a weight of 1, which sums the differences", _untuned),
        },
        Pairs("breadcrumbs", "task arithmetic", "task arithmetic", "tuned", "untuned"),
        what="nats per letter over six tasks above those of the best settings for six",
        count="six",
        version=2,  # in version 1 the control was set against the baseline, which is as good in some seeds
    ),
)
