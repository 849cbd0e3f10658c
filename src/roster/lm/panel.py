"""Panel: several models answer each prompt, and one answer is made of theirs. What Symbolic-MoE does after recruiting.

A policy names one model per prompt; a panel names K of them, so it stands beside `roster.lm.policy` and not behind the
gateway. It works in batches: all prompts of a model are asked in one turn, so that a machine with room for one model
loads each only once. The answers are joined by a vote, or by a model that reads them (`roster.lm.aggregation` finds out
which model is good at that).

Shape legend: N prompts, M models, K recruits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError, nearest
from roster.lm.estimate import Estimates
from roster.lm.estimate.agreement import answer_ids
from roster.lm.records import Matrix, Records
from roster.lm.routing import Routing

Ask = Callable[[str, Sequence[str]], Sequence[str | None]]
"""(model, prompts) -> answers."""
Aggregate = Callable[[str, Sequence[str], Sequence[Sequence[str | None]]], Sequence[str | None]]
"""(model, prompts, the answers to each) -> one answer to each."""


@dataclass(frozen=True)
class Turn:
    """One model's turn.

    Attributes:
        model: its name.
        prompts: positions of the prompts that it answers.
        joins: positions of the prompts whose answers it joins, after having answered.
    """

    model: str
    prompts: tuple[int, ...]
    joins: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Who answers what, and in which order models are loaded.

    Attributes:
        models: M names.
        chosen_NK: the recruits' columns, the best suited first.
        weight_NK: what each recruit's vote counts: its expected quality.
        turns: as many as models have to be loaded.
    """

    models: tuple[str, ...]
    chosen_NK: NDArray[np.int64]
    weight_NK: Matrix
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class PlayedPanel:
    """What a panel would have done where all answers were recorded, per prompt [N].

    Attributes:
        score_N: of the answer that won the vote.
        cost_N: of all recruits' calls together.
        answers: the answers themselves.
        loads: how often a model had to be loaded for all prompts.
    """

    score_N: Matrix
    cost_N: Matrix
    answers: tuple[str | None, ...]
    loads: int


class Panel:
    """Recruits for every prompt the models that the routing's rule likes best.

    Args:
        routing: fitted; its rule's utility ranks the models.
        recruits: K, how many models answer a prompt.
        aggregators: who joins the answers: None for a vote, one model's name, or a name per data set.

    Raises:
        RosterError: more recruits than models, or an aggregator that is none of them.
    """

    def __init__(self, routing: Routing, recruits: int = 3, aggregators: str | Mapping[str, str] | None = None):
        models = routing.estimator.models
        if not 1 <= recruits <= len(models):
            raise RosterError(f"a panel of {len(models)} models recruits between 1 and {len(models)}, not {recruits}")
        named = [aggregators] if isinstance(aggregators, str) else list((aggregators or {}).values())
        for name in named:
            if name not in models:
                raise RosterError(f"the aggregator {name!r} is none of the models: {nearest(name, models)}")
        self.routing, self.recruits, self.aggregators = routing, recruits, aggregators

    def plan(self, prompts: Sequence[str], datasets: Sequence[str] | None = None) -> Plan:
        """Recruits, and the order of turns.

        A model that joins answers takes its turn last, so that with one aggregator nobody is loaded twice; each
        further one is loaded once more if it has answered before.

        Args:
            prompts: N texts.
            datasets: of each prompt, where aggregators differ by data set.

        Raises:
            RosterError: a prompt's data set is not known, or has no aggregator.
        """
        estimates = self.routing.estimator.estimate(prompts, datasets if self.routing.sees_dataset else None)
        utility_NM = self.routing.rule.utility(estimates)
        chosen_NK = np.argsort(-utility_NM, axis=1, kind="stable")[:, : self.recruits]
        weight_NK = np.take_along_axis(estimates.quality_NM, chosen_NK, axis=1)
        turns = _turns(estimates, chosen_NK, self._joiners(len(prompts), datasets))
        return Plan(estimates.models, chosen_NK, weight_NK, turns)

    def _joiners(self, count: int, datasets: Sequence[str] | None) -> list[str]:
        if self.aggregators is None:
            return []
        if isinstance(self.aggregators, str):
            return [self.aggregators] * count
        if datasets is None:
            raise RosterError("aggregators differ by data set, so the panel must be told the data set of every prompt")
        for name in datasets:
            if name not in self.aggregators:
                raise RosterError(f"no aggregator for data set {name!r}: {nearest(name, self.aggregators)}")
        return [self.aggregators[name] for name in datasets]

    def answer(
        self,
        prompts: Sequence[str],
        ask: Ask,
        aggregate: Aggregate | None = None,
        datasets: Sequence[str] | None = None,
    ) -> tuple[str | None, ...]:
        """Asks the models, turn by turn, and joins what they say.

        Args:
            prompts: N texts.
            ask: called once per model that has prompts to answer.
            aggregate: called once per aggregator; needed unless the panel votes.
            datasets: see `plan`.

        Raises:
            RosterError: there is an aggregator and no way to ask it, or a model gave too few answers.
        """
        if self.aggregators is not None and aggregate is None:
            raise RosterError("the panel has an aggregator: say how it is asked, or let the panel vote")
        plan = self.plan(prompts, datasets)
        answer_NK = np.full(plan.chosen_NK.shape, None, dtype=object)
        joined = np.full(len(prompts), None, dtype=object)
        for turn in plan.turns:
            if turn.prompts:
                said = _as_many(turn.model, ask(turn.model, [prompts[n] for n in turn.prompts]), len(turn.prompts))
                for n, answer in zip(turn.prompts, said, strict=True):
                    answer_NK[n, plan.chosen_NK[n] == plan.models.index(turn.model)] = answer
            if turn.joins:
                heard = [answer_NK[n].tolist() for n in turn.joins]
                assert aggregate is not None  # only aggregators join
                merged = aggregate(turn.model, [prompts[n] for n in turn.joins], heard)
                joined[list(turn.joins)] = _as_many(turn.model, merged, len(turn.joins))
        if self.aggregators is None:
            winner_N = vote(answer_NK, plan.weight_NK)
            joined = answer_NK[np.arange(len(prompts)), winner_N]
        return tuple(joined)

    def play(self, records: Records) -> PlayedPanel:
        """What a vote of the recruits would have given on recorded answers.

        Raises:
            RosterError: the records have no answers, or the panel does not vote.
        """
        if records.answer_NM is None:
            raise RosterError(f"records {records.name!r} have no answers to vote on")
        if self.aggregators is not None:
            raise RosterError("what an aggregator would have said is not recorded; only a vote can be played")
        plan = self.plan(records.prompts, records.datasets)
        column_NK = np.array([records.column(name) for name in plan.models])[plan.chosen_NK]
        row_N = np.arange(len(records))
        answer_NK = records.answer_NM[row_N[:, None], column_NK]
        winner_N = vote(answer_NK, plan.weight_NK)
        return PlayedPanel(
            records.score_NM[row_N, column_NK[row_N, winner_N]],
            records.cost_NM[row_N[:, None], column_NK].sum(1),
            tuple(answer_NK[row_N, winner_N]),
            len(plan.turns),
        )


def vote(answer_NK: NDArray[np.object_], weight_NK: Matrix) -> NDArray[np.int64]:
    """Whose answer wins, as a position among the recruits, [N].

    Equal answers (numbers, quotes and spaces aside) add their weights; the first recruit that gave the heaviest answer
    is named. Missing answers have no vote; where all are missing, the first recruit is named.
    """
    ids_NK = answer_ids(answer_NK)
    alike_NKK = (ids_NK[:, :, None] == ids_NK[:, None]) & (ids_NK[:, :, None] >= 0)
    # Sums of the same weights in another order must not differ in their last bits: ties go to the first recruit.
    total_NK = np.round((alike_NKK * weight_NK[:, None]).sum(2), 9)
    heaviest_N: NDArray[np.int64] = np.where(ids_NK >= 0, total_NK, -1.0).argmax(1)
    return heaviest_N


def _turns(estimates: Estimates, chosen_NK: NDArray[np.int64], joiners: Sequence[str]) -> tuple[Turn, ...]:
    asked = {m: np.flatnonzero((chosen_NK == m).any(1)).tolist() for m in np.unique(chosen_NK).tolist()}
    names = {estimates.models[m]: tuple(at) for m, at in asked.items()}
    joined = {name: tuple(n for n, each in enumerate(joiners) if each == name) for name in dict.fromkeys(joiners)}
    # The aggregator that has answered stays loaded and joins first; all answers are there by then.
    first = next((name for name in joined if name in names), None)
    turns = [Turn(name, at) for name, at in names.items() if name != first]
    if first is not None:
        turns.append(Turn(first, names[first], joined[first]))
    return (*turns, *(Turn(name, (), at) for name, at in joined.items() if name != first))


def _as_many(model: str, said: Sequence[str | None], count: int) -> list[str | None]:
    said = list(said)
    if len(said) != count:
        raise RosterError(f"model {model!r} was asked {count} prompts and gave {len(said)} answers")
    return said
