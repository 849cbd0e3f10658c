"""From the records of a tournament to one result: shares, intervals, pairwise verdicts, costs, who is taken for whom.

A prompt that was asked at several seeds counts once, with the mean of its scores, so that intervals are over prompts;
how far seeds lie apart stands beside them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from roster.arena.compare import Outcome
from roster.arena.evaluate import wilson
from roster.arena.paired import gain
from roster.arena.verdict import Standing, verdict
from roster.train.data import Row

ALL = "all"
EQUAL = 0.02
"""A difference that does not count: within it, two ways are called alike."""
Key = tuple[str, str]
"""A prompt: its group and what was asked."""


class Entry:
    """One way over all seeds.

    Args:
        rows: what was asked, by seed.
        outcomes: what came of it, by seed.
    """

    def __init__(self, rows: Mapping[int, Sequence[Row]], outcomes: Mapping[int, Outcome]):
        self.way = next(iter(outcomes.values())).way
        self.outcomes, self.rows = outcomes, rows
        found: dict[Key, list[float]] = {}
        for seed, each in outcomes.items():
            for row, score in zip(rows[seed], each.scores, strict=True):
                found.setdefault((row.group or ALL, str(row.asked)), []).append(score)
        self.score = {key: statistics.mean(scores) for key, scores in found.items()}

    def scores(self, group: str | None, keys: Sequence[Key]) -> list[float]:
        """Its scores on some prompts of a group, or of all."""
        return [self.score[key] for key in keys if group in (None, key[0])]

    def spread(self) -> float | None:
        """Standard deviation over seeds of the share of right answers; None for one seed."""
        means = [statistics.mean(each.scores) for each in self.outcomes.values()]
        return statistics.stdev(means) if len(means) > 1 else None

    def median(self, field: str) -> float | None:
        """The median over seeds of one of its costs."""
        values = [getattr(each.cost, field) for each in self.outcomes.values()]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None


def standings(entries: Sequence[Entry], groups: Sequence[str]) -> dict[str, Any]:
    """What a result says of one folder of adapters; the layout is that of `write_report`, with more in it.

    Args:
        entries: all ways, the base first, that were run at all seeds.
        groups: of prompts.
    """
    keys = list(entries[0].score)
    oracle = next((each for each in entries if each.way.name == "oracle"), None)
    methods = [_method(each, keys, groups, oracle) for each in entries]
    return {
        "methods": methods,
        "pairs": [pair for group in (None, *groups) for pair in _pairs(entries, keys, group)],
        "verdict": _sentences(entries, keys, groups),
    }


def confusion(
    entry: Entry, looked_at: Mapping[int, Sequence[Row]], experts: Mapping[str, str | None]
) -> dict[str, Any]:
    """Whose prompts went to whom, in shares of each task's prompts.

    Args:
        entry: a way whose choices were looked at.
        looked_at: the prompts, by seed.
        experts: names, with their tasks.
    """
    tasks = list(dict.fromkeys(row.task for rows in looked_at.values() for row in rows))
    columns = [*dict.fromkeys([*tasks, *experts.values()]), None]
    counts = {task: dict.fromkeys(columns, 0) for task in tasks}
    for seed, outcome in entry.outcomes.items():
        for row, name in zip(looked_at[seed], outcome.chosen or [], strict=True):
            counts[row.task][None if name is None else experts[name]] += 1
    values = [[count / max(1, sum(row.values())) for count in row.values()] for row in counts.values()]
    return {"rows": tasks, "columns": ["nobody" if each is None else each for each in columns], "values": values}


def to_its_own(entry: Entry, looked_at: Mapping[int, Sequence[Row]], experts: Mapping[str, str | None]) -> float | None:
    """Share of prompts that went to an expert of their task; None where that was not looked at."""
    found = [
        name is not None and experts[name] == row.task
        for seed, outcome in entry.outcomes.items()
        if outcome.chosen is not None
        for row, name in zip(looked_at[seed], outcome.chosen, strict=True)
    ]
    return sum(found) / len(found) if found else None


def per_task(entries: Sequence[Entry]) -> dict[str, Any]:
    """Share of right answers by way and task."""
    tasks: list[str] = []
    by_way = []
    for entry in entries:
        found: dict[str, list[float]] = {}
        for seed, outcome in entry.outcomes.items():
            for row, score in zip(entry.rows[seed], outcome.scores, strict=True):
                found.setdefault(row.task or "nobody", []).append(score)
        tasks = tasks or sorted(found)
        by_way.append(found)
    values = [[statistics.mean(found[task]) for task in tasks] for found in by_way]
    return {"rows": [each.way.name for each in entries], "columns": tasks, "values": values}


def _method(entry: Entry, keys: Sequence[Key], groups: Sequence[str], oracle: Entry | None) -> dict[str, Any]:
    way, first = entry.way, next(iter(entry.outcomes.values()))
    accuracy = {}
    for name, group in [*((each, each) for each in groups), (ALL, None)]:
        scores = entry.scores(group, keys)
        low, high = wilson(sum(scores), len(scores))
        accuracy[name] = {"mean": statistics.mean(scores), "low": low, "high": high, "n": len(scores)}
    return {
        "name": way.name,
        "label": way.label,
        "kind": way.kind,
        "needs": way.needs,
        "data": way.data,
        "accuracy": accuracy,
        "spread_over_seeds": entry.spread(),
        "answers_as_oracle": None if oracle is None else _same(entry, oracle),
        "trained": first.cost.trained,
        "memory": first.cost.memory,
        "time": entry.median("time"),
        "prompt_reads": first.cost.prompt_reads,
        "answer_reads": first.cost.answer_reads,
        "prepare_s": entry.median("prepare_s"),
    }


def _same(entry: Entry, oracle: Entry) -> float:
    same = [
        one.strip() == other.strip()
        for seed, outcome in entry.outcomes.items()
        for one, other in zip(outcome.told, oracle.outcomes[seed].told, strict=True)
    ]
    return sum(same) / len(same)


def _pairs(entries: Sequence[Entry], keys: Sequence[Key], group: str | None) -> list[dict[str, Any]]:
    """Each pair of ways: the gain of the first over the second, and what may be said of it."""
    found = []
    for one, other in combinations(entries, 2):
        each = gain(one.scores(group, keys), other.scores(group, keys))
        # Student's interval may go beyond what shares can differ by; one prompt alone has none.
        bounds = [None if math.isinf(value) else min(1.0, max(-1.0, value)) for value in (each.low, each.high)]
        names = {"of": one.way.name, "over": other.way.name, "group": group or ALL}
        found.append(
            {
                **names,
                "mean": each.mean,
                "low": bounds[0],
                "high": bounds[1],
                "n": each.count,
                "word": each.apart(EQUAL),
            }
        )
    return found


def _sentences(entries: Sequence[Entry], keys: Sequence[Key], groups: Sequence[str]) -> list[str]:
    """What routing gains over all prompts; then group by group, the gain alone."""

    def of(group: str | None) -> list[Standing]:
        return [Standing(each.way.name, each.way.label, each.way.kind, each.scores(group, keys)) for each in entries]

    sentences = verdict(of(None))
    if len(groups) > 1:
        sentences += [verdict(of(group), f" on {group} prompts")[0] for group in groups]
    return list(dict.fromkeys(sentences))
