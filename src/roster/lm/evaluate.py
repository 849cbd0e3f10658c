"""The report on routers: always beside best single, random, static mix, data-set look-up and per-query oracle.

Three questions, a section each: prompts like those of training; a data set that training did not have; a model of
which only k probe answers are known. How they are shown is `roster.lm.report`.

The cost of random is the mean cost of a model drawn uniformly. Routers are compared at that cost, at settings
chosen on validation prompts (`roster.lm.ruler`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from roster.errors import RosterError
from roster.lm.calibration import auroc, brier
from roster.lm.judging import free_of_charge, judged
from roster.lm.play import ordered, play
from roster.lm.records import Matrix, Records
from roster.lm.results import HELD_OUT, LOOKUP, MIX, SINGLE, AddedRow, Report, Section
from roster.lm.routing import Routing
from roster.lm.ruler import Way, explore, kind_of, section, setting_at
from roster.lm.splits import carve_validation, hold_out, training
from roster.lm.verdict import verdict
from roster.recipes import RECIPES
from roster.workers import Workers

Make = Callable[[], Routing]


def evaluate(
    records: Records,
    routers: Mapping[str, Make],
    *,
    held_out: Sequence[str] = (),
    added: Sequence[str] = (),
    probes: Sequence[int] = (10, 20, 50),
    in_distribution: bool = True,
    draws: int = 1000,
    seed: int = 0,
    progress: Callable[[str], None] = lambda what: None,
    workers: Workers = Workers(),
) -> Report:
    """Measures routers on recorded answers.

    Args:
        records: with a test split; validation prompts serve to choose settings, and among the routers.
        routers: how to make each one, unfitted, by slug; the yardsticks are added if they are not among them.
        held_out: data sets that take a section each.
        added: models that take a turn at being added from probes.
        probes: k.
        in_distribution: whether to have the first section.
        draws: bootstrap resamples.
        seed: of everything random.
        progress: told what happens.
        workers: where routers are fitted and their settings explored, one a job. Elsewhere than in this process
            `routers` must be functions of modules, or `functools.partial` of such.

    Raises:
        RosterError: there is no test split, no cost, or an unknown data set or model.
    """
    routers = with_yardsticks(routers)
    records = carve_validation(free_of_charge(records), seed=seed)
    if "test" not in records.splits:
        raise RosterError(f"records {records.name!r} have no test split to judge routers on")
    asked = {"draws": draws, "seed": seed, "text": records.text}
    report = Report(records.name, records.currency, records.notes, settings=asked)
    sections = {"in distribution": records} if in_distribution else {}
    sections |= {f"{HELD_OUT}{name}": carve_validation(hold_out(records, name), seed=seed) for name in held_out}
    for title, apart in sections.items():
        found, notes = _section(title, routers, apart, draws, seed, progress, workers)
        report.sections.append(found)
        report.notes = tuple(dict.fromkeys((*report.notes, *notes)))
    if added:
        learn = training(records)
        test = judged(records.split("test"), learn, "test", seed)
        add = partial(add_section, routers, learn, test, probes=probes, seed=seed)
        rows: dict[int, list[AddedRow]] = {}
        fixed = [slug for slug, make in routers.items() if not make().takes_models]
        if fixed:
            note = f"left out where a model is added from probes: {', '.join(fixed)} (a cascade is found among models "
            report.notes = (*report.notes, note + "whose answers are on record)")
        progress(f"added: {', '.join(added)}")
        for place, found_rows in workers.map(add, added):
            rows[place] = found_rows
            progress(f"added: {added[place]} ({len(rows)} of {len(added)})")
        report.added += [row for place in sorted(rows) for row in rows[place]]
    report.verdict = verdict(report)
    return report


def with_yardsticks(routers: Mapping[str, Make]) -> dict[str, Make]:
    """The routers, with the fitted yardsticks among them."""
    return {**{slug: RECIPES[slug] for slug in (SINGLE, MIX, LOOKUP)}, **routers}


def _section(
    title: str,
    routers: Mapping[str, Make],
    records: Records,
    draws: int,
    seed: int,
    progress: Callable[[str], None],
    workers: Workers,
) -> tuple[Section, tuple[str, ...]]:
    """Settings are chosen by routers that saw training prompts only; what is judged saw those of validation too.

    Returns:
        the section, and the notes of what it was judged on.
    """
    progress(f"{title}: choosing on validation")
    train = records.split("train")
    validation = judged(records.split("validation"), train, "validation", seed)
    learn = training(records)
    test = judged(records.split("test"), learn, "test", seed)
    slugs, known = list(routers), {}
    for place, pair in workers.map(partial(_prepared, train, validation, learn), list(routers.values())):
        known[slugs[place]] = pair
        progress(f"{title}: {slugs[place]} ({len(known)} of {len(slugs)})")
    ways, fitted = {slug: known[slug][0] for slug in slugs}, {slug: known[slug][1] for slug in slugs}
    progress(title)
    found = section(title, ways, fitted, (learn, validation, test), draws, seed)
    return found, (*validation.notes, *test.notes)


def _prepared(train: Records, validation: Records, learn: Records, make: Make) -> tuple[Way, Routing]:
    """A router's settings by validation, and the router that is judged."""
    return explore(make().fit(train), validation), make().fit(learn)


def add_section(
    routers: Mapping[str, Make], learn: Records, test: Records, model: str, probes: Sequence[int], seed: int
) -> list[AddedRow]:
    """A model unknown in training, added from k of its answers to training prompts."""
    learn.column(model)
    others = learn.only([name for name in learn.models if name != model])
    budget = float(test.cost_NM.mean())
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(np.isfinite(learn.score_NM[:, learn.column(model)])))
    rows = []
    for slug, make in routers.items():
        if kind_of(slug) != "router" or not make().takes_models:
            continue
        before, full = make().fit(others), make().fit(learn)
        known = test.only(others.models)
        without, retrained = (_along_dial(*pair, budget) for pair in ((before, known), (full, test)))
        for k in probes:
            routing = copy.deepcopy(before)
            routing.estimator.add_model(model, learn.rows(drawn[:k]))
            truth_N = test.measured_NM[:, test.column(model)]
            known_N = np.isfinite(truth_N)
            expected_N, truth_N = _column(routing, test, model)[known_N], truth_N[known_N]
            quality = _along_dial(routing, test, budget)
            measured = (auroc(expected_N, truth_N), brier(expected_N, truth_N), quality, without, retrained)
            rows.append(AddedRow(slug, model, int(k), *measured))
    return rows


def _along_dial(routing: Routing, test: Records, budget: float) -> float:
    """Quality where the dial, turned from frugal to generous, meets a cost.

    Nobody has validation answers of a model that is known by k probes, so no setting can be chosen by its quality.
    """
    played = play(routing, test, timed=False).played
    setting = setting_at(played, np.arange(len(played.cost_LN)), budget)
    return float("-inf") if setting is None else float(setting.of(played.score_LN).mean())


def _column(routing: Routing, test: Records, model: str) -> Matrix:
    estimates = ordered(routing.estimator.estimate(test.prompts, test.datasets), test.models)
    return estimates.quality_NM[:, test.column(model)]
