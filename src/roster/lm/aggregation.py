"""Aggregation ability: how often a model that reads several answers, one of them right, ends with the right one.

A good solver need not be good at this, so it is measured (Symbolic-MoE): on validation prompts, a right answer and some
wrong ones, all recorded, are put before every model in turn.

Shape legend: N prompts, M models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from roster.errors import RosterError
from roster.lm.estimate.agreement import canonical
from roster.lm.panel import Aggregate
from roster.lm.records import Records


@dataclass(frozen=True)
class Trial:
    """A prompt with answers of which one is right.

    Attributes:
        prompt: the text.
        dataset: where it is from.
        answers: in random order.
        right: the right one.
    """

    prompt: str
    dataset: str
    answers: tuple[str, ...]
    right: str


def same_answer(trial: Trial, answer: str | None) -> bool:
    """Whether an answer is the right one, spelling of numbers, quotes and spaces aside."""
    return answer is not None and canonical(answer) == canonical(trial.right)


def trials(records: Records, wrong: int = 2, seed: int = 0) -> list[Trial]:
    """One trial per prompt that has a right answer (score above 0.5) and enough wrong ones.

    Args:
        records: of validation, with answers.
        wrong: answers beside the right one.
        seed: of which answers are taken, and of their order.

    Raises:
        RosterError: there are no answers, or no prompt has enough of them.
    """
    if records.answer_NM is None:
        raise RosterError(f"records {records.name!r} have no answers to put before an aggregator")
    rng = np.random.default_rng(seed)
    made = []
    for n, prompt in enumerate(records.prompts):
        given = [m for m, answer in enumerate(records.answer_NM[n]) if canonical(answer) is not None]
        good = [m for m in given if records.score_NM[n, m] > 0.5]
        bad = [m for m in given if records.score_NM[n, m] <= 0.5]
        if good and len(bad) >= wrong:
            right = str(records.answer_NM[n, rng.choice(good)])
            answers = [right, *(str(records.answer_NM[n, m]) for m in rng.choice(bad, wrong, replace=False))]
            made.append(Trial(prompt, records.datasets[n], tuple(rng.permutation(answers).tolist()), right))
    if not made:
        raise RosterError(f"records {records.name!r}: no prompt has a right answer and {wrong} wrong ones")
    return made


def ability(
    given: Sequence[Trial],
    models: Sequence[str],
    aggregate: Aggregate,
    grade: Callable[[Trial, str | None], bool] = same_answer,
) -> dict[str, dict[str, float]]:
    """Share of the trials that each model gets right: {data set: {model: share}}. Every model is asked once, in batch.

    Args:
        given: trials.
        models: who is to be tried.
        aggregate: asks a model, see `roster.lm.panel`.
        grade: whether a joined answer is right.
    """
    prompts, answers = [each.prompt for each in given], [list(each.answers) for each in given]
    datasets = np.array([each.dataset for each in given])
    found: dict[str, dict[str, float]] = {name: {} for name in sorted(set(datasets.tolist()))}
    for model in models:
        said = list(aggregate(model, prompts, answers))
        if len(said) != len(given):
            raise RosterError(f"model {model!r} was given {len(given)} trials and gave {len(said)} answers")
        right = np.array([grade(trial, answer) for trial, answer in zip(given, said, strict=True)])
        for name, shares in found.items():
            shares[model] = float(right[datasets == name].mean())
    return found


def best_aggregators(found: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The ablest model per data set, what `Panel` takes; ties go to the model tried first."""
    return {name: max(shares, key=shares.__getitem__) for name, shares in found.items()}
