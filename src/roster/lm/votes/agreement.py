"""The report on votes: whether a ranking per prompt foresees held-out votes better than one ranking for all prompts.

Agreement is the share of decided votes whose winner was foreseen (a chance of exactly one half counts half). The
log-loss is over all votes, ties as half a win each way. Intervals resample prompts, all votes of a prompt together, and
pair the two rankings. The penalty of what the prompt adds is chosen on validation votes; one ranking for all is among
the choices.

Shape legend: V votes, B resamples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.files import write_whole
from roster.lm.curve import interval, resamples
from roster.lm.records import Matrix
from roster.lm.results import Figure
from roster.lm.splits import same
from roster.lm.votes.ballots import Votes
from roster.lm.votes.preference import Preference
from roster.reporting import render

CONTEXTS = (0.3, 1.0, 3.0, 10.0, math.inf)
LEAST = 30
"""Decided votes of the test without which nothing is reported."""


@dataclass(frozen=True)
class Ranked:
    """One way of ranking.

    Attributes:
        title: in words.
        agreement: with the decided votes.
        log_loss: per vote, in nats.
        over: agreement less that of one ranking for all prompts, paired.
        gain: log-loss of one ranking for all prompts less this one's, paired.
    """

    title: str
    agreement: Figure
    log_loss: Figure
    over: Figure
    gain: Figure


@dataclass(frozen=True)
class VotesReport:
    """Everything that the table, the JSON and the page show.

    Attributes:
        ranking: the models by their strength for all prompts, (name, logarithm of the strength).
        context: the penalty that validation chose.
        votes: how many train, choose and judge.
        ties: of those that judge.
    """

    data: str
    notes: tuple[str, ...]
    settings: dict[str, Any]
    ranking: list[tuple[str, float]]
    context: float
    votes: dict[str, int]
    ties: int
    rows: list[Ranked]
    verdict: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinities."""
        found = asdict(self)
        return found | {"context": None if math.isinf(self.context) else self.context}


def evaluate_votes(votes: Votes, draws: int = 1000, seed: int = 0) -> VotesReport:
    """Judges the ranking per prompt on held-out votes.

    Raises:
        RosterError: too few votes to learn from or to judge by.
    """
    train, validation, test = (votes.split(name) for name in ("train", "validation", "test"))
    decided = int((test.share_V != 0.5).sum())
    if decided < LEAST or not len(validation):
        raise RosterError(
            f"votes {votes.name!r}: {decided} decided votes of the test and {len(validation)} votes of the validation; "
            f"at least {LEAST} and 1 are needed"
        )
    losses = {each: _loss(Preference(context=each).fit_votes(train), validation).mean() for each in CONTEXTS}
    context = min(losses, key=lambda each: losses[each])
    learn = votes.split("train", "validation")
    plain = Preference(context=math.inf).fit_votes(learn)
    chosen = plain if math.isinf(context) else Preference(context=context).fit_votes(learn)
    ways = {"one ranking for all prompts": plain, "a ranking per prompt": chosen}
    rows = _rows(ways, test, draws, seed)
    order = np.argsort(-plain.strength_M, kind="stable")
    return VotesReport(
        data=votes.name,
        notes=votes.notes,
        settings={"draws": draws, "seed": seed, "text": votes.text},
        ranking=[(votes.models[m], float(plain.strength_M[m])) for m in order],
        context=context,
        votes={"train": len(train), "validation": len(validation), "test": len(test)},
        ties=len(test) - decided,
        rows=rows,
        verdict=_verdict(rows, context, len(test)),
    )


def _rows(ways: Mapping[str, Preference], test: Votes, draws: int, seed: int) -> list[Ranked]:
    """Each way beside the first."""
    group_V = _groups(test.prompts)
    weight_BV = np.vstack([np.ones(len(test)), resamples(int(group_V.max()) + 1, draws, seed)[:, group_V]])
    decided_V = test.share_V != 0.5
    measured = {}
    for title, way in ways.items():
        chance_V = way.preferred(test.prompts, test.pair_V2)
        agreed_V = np.where(chance_V == 0.5, 0.5, (chance_V > 0.5) == (test.share_V > 0.5))
        measured[title] = _mean(agreed_V[decided_V], weight_BV[:, decided_V]), _mean(_loss(way, test), weight_BV)
    first_agreement_B, first_loss_B = next(iter(measured.values()))
    found = []
    for title, (agreement_B, loss_B) in measured.items():
        over, gain = _figure(agreement_B - first_agreement_B), _figure(first_loss_B - loss_B)
        found.append(Ranked(title, _figure(agreement_B), _figure(loss_B), over, gain))
    return found


def _groups(prompts: tuple[str, ...]) -> NDArray[np.int64]:
    number: dict[str, int] = {}
    return np.array([number.setdefault(same(prompt), len(number)) for prompt in prompts])


def _mean(value_V: Matrix, weight_BV: Matrix) -> Matrix:
    return np.asarray(weight_BV @ value_V / np.maximum(weight_BV.sum(1), 1e-12))


def _figure(value_B: Matrix) -> Figure:
    return Figure(float(value_B[0]), *interval(value_B[1:]))


def _loss(way: Preference, votes: Votes) -> Matrix:
    chance_V = way.preferred(votes.prompts, votes.pair_V2).clip(1e-12, 1 - 1e-12)
    return np.asarray(-(votes.share_V * np.log(chance_V) + (1 - votes.share_V) * np.log(1 - chance_V)))


def _verdict(rows: list[Ranked], context: float, count: int) -> list[str]:
    plain, per_prompt = rows
    share = f"{plain.agreement.value:.1%} of the decided votes of the test ({count} votes in all)"
    base = f"One ranking for all prompts foresees {share}."
    if math.isinf(context):
        return [base, "Validation votes prefer it to any ranking per prompt: the prompt is not shown to matter."]
    over = per_prompt.over
    said = f"{per_prompt.agreement.value:.1%}, {over.value:+.1%} [{over.low:+.1%}, {over.high:+.1%}]"
    word = "foresees more" if over.low > 0 else "foresees fewer" if over.high < 0 else "is not shown to foresee more"
    return [f"A ranking per prompt {word}: {said}.", base]


def page(report: VotesReport) -> str:
    """The HTML page."""
    return render("votes", {"figure": figure}, report=report)


def figure(value: Figure, sign: str = "") -> str:
    """A figure with its interval."""
    return f"{value.value:{sign}.4f} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"


def write_report(report: VotesReport, folder: Path | str) -> list[Path]:
    """`report.json` and `report.html` in a folder."""
    folder = Path(folder)
    data = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return [
        write_whole(folder / "report.json", data.encode()),
        write_whole(folder / "report.html", page(report).encode()),
    ]
