"""Ways to use one's own folder of adapters, compared on one's own prompts.

Every way answers the same prompts with the same base. What was answered is kept in the output folder by what it depends
on (prompts, base, adapters and their cards, way, terms), so that a comparison that was stopped carries on. The ways are
in `ways.py`, what is said of them in `verdict.py` and `side_by_side.py`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress

from roster.arena.evaluate import answers, check_lengths
from roster.arena.metrics import metric_of
from roster.arena.timing import BATCH, plain_copy, reads, relative_time
from roster.arena.verdict import Standing, verdict
from roster.arena.ways import Way
from roster.files import write_whole
from roster.library import Library, digest, fingerprint
from roster.prompts import Rendering
from roster.routed.becoming import detach
from roster.routed.running import is_added
from roster.train.data import Row

KEPT = "kept"
"""The folder of answers that a further run need not make again."""


@dataclass(frozen=True)
class Terms:
    """What is alike for all ways.

    Attributes:
        max_new_tokens: where an answer is cut off.
        batch_size: prompts at a time.
        metric: see `roster.arena.metrics.metric_of`.
        timed: whether time per token is measured, beside a copy of the base in memory.
    """

    max_new_tokens: int = 32
    batch_size: int = 32
    metric: str = "exact"
    timed: bool = True


@dataclass(frozen=True)
class Cost:
    """What a way costs beside the base.

    Attributes:
        time: per token, relative to the base; None where it was not measured.
        prompt_reads, answer_reads: how often each token is read; 1 is what the base does.
        trained: numbers that were trained for the router.
    """

    time: float | None
    prompt_reads: float
    answer_reads: float
    trained: int


@dataclass(frozen=True)
class Outcome:
    """What one way answered, in the order of the rows, how good each answer is (0 to 1), and what it cost."""

    way: Way
    told: list[str]
    scores: list[float]
    cost: Cost


@dataclass
class Comparison:
    """The ground that all ways share.

    Attributes:
        base: plain between two ways.
        library, rendering, rows, terms: as given.
        progress: bars; where its console is no terminal, a line a way says how far it is.
        of_base: the base's answers, which are the measure where a row has none.
    """

    base: Any
    library: Library
    rendering: Rendering
    rows: Sequence[Row]
    terms: Terms
    progress: Progress
    of_base: dict[int, str] = field(default_factory=dict)

    def tell(self, model: Any, rows: Sequence[Row], what: str, tasks: Sequence[str | None] | None = None) -> list[str]:
        """What a model says to each row."""
        bar, start = self.progress.add_task(what, total=len(rows)), time.monotonic()
        told = answers(
            model,
            self.rendering,
            [row.asked for row in rows],
            tasks=tasks,
            batch_size=self.terms.batch_size,
            max_new_tokens=self.terms.max_new_tokens,
            progress=lambda count: self.progress.advance(bar, count),
        )
        self.progress.remove_task(bar)
        if not self.progress.console.is_terminal:
            line = f"{what}: {len(rows)} prompts, {time.monotonic() - start:.1f} s"
            self.progress.console.print(line, markup=False, highlight=False)
        return told

    def score(self, rows: Sequence[Row], told: Sequence[str]) -> list[float]:
        """How good each answer is; a row without an answer asks for the base's."""
        metric = metric_of(self.terms.metric)
        wanted = [self.of_base.get(id(row), "") if row.answer is None else row.answer for row in rows]
        return [metric(said, want) for said, want in zip(told, wanted, strict=True)]

    def tasks(self, way: Way, model: Any, rows: Sequence[Row]) -> list[str | None] | None:
        """What a way that is told the task is told; a task that no expert has is nobody's."""
        return [row.task if row.task in model.roster.tasks else None for row in rows] if way.told else None

    def measure(self, way: Way) -> tuple[list[str], Cost]:
        """One way's answers and costs; the base is plain again afterwards."""
        model = way.make(self)
        try:
            told = self.tell(model, self.rows, way.label, self.tasks(way, model, self.rows))
            return told, self._cost(way, model)
        finally:
            if hasattr(model, "roster"):
                detach(model)

    def _cost(self, way: Way, model: Any) -> Cost:
        sample = self.rows[:: max(1, len(self.rows) // BATCH)][:BATCH]
        inputs: dict[str, Any] = dict(self.rendering.inputs([row.asked for row in sample]))
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        inputs["pad_token_id"] = self.rendering.pad_token_id
        if way.told:
            inputs["tasks"] = self.tasks(way, model, sample)
        passes = reads(model, inputs)
        if way.name == "base" or not self.terms.timed:
            return Cost(1.0 if way.name == "base" else None, *passes, 0)
        plain = plain_copy(model) if hasattr(model, "roster") else self.base
        trained = sum(each.numel() for name, each in model.named_parameters() if is_added(name) and each.requires_grad)
        return Cost(relative_time(model, plain, inputs, rounds=3), *passes, trained)


def compare(comparison: Comparison, ways: Sequence[Way], out: Path) -> dict[str, Any]:
    """Measures every way and writes `result.json` and `answers.jsonl`.

    Args:
        comparison: the ground.
        ways: what is compared, the base first.
        out: folder for the results; answers that an earlier run left there for the same question are taken as they are.

    Returns:
        What `result.json` holds.

    Raises:
        RosterError: a prompt that the model cannot take, before any is answered.
    """
    names = [f"row {number}: the prompt" for number in range(1, len(comparison.rows) + 1)]
    terms, asked = comparison.terms, [row.asked for row in comparison.rows]
    check_lengths(comparison.base, comparison.rendering, asked, terms.max_new_tokens, names)
    ground = _ground(comparison)
    outcomes = []
    for way in ways:
        told, cost = _kept(comparison, way, out / KEPT / f"{_file_name(way.name)}.json", ground)
        if way.name == "base":
            comparison.of_base = {id(row): said for row, said in zip(comparison.rows, told, strict=True)}
        outcomes.append(Outcome(way, told, comparison.score(comparison.rows, told), cost))
    result = _result(comparison, outcomes)
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in answer_lines(comparison.rows, outcomes))
    write_whole(out / "answers.jsonl", lines.encode("utf-8", "backslashreplace"))
    write_whole(out / "result.json", json.dumps(result, indent=1).encode())
    return {**result, "outcomes": outcomes}


def answer_lines(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A line a row: what was asked and wanted, what each way said, and what that is worth."""
    return [
        {
            **row.model_dump(exclude_none=True),
            "said": {each.way.name: each.told[at] for each in outcomes},
            "score": {each.way.name: each.scores[at] for each in outcomes},
        }
        for at, row in enumerate(rows)
    ]


def groups_of(rows: Sequence[Row]) -> dict[str, list[int]]:
    """The places of each group's rows; one group when none is named."""
    groups: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        groups.setdefault(row.group or "all", []).append(at)
    return groups


def _result(comparison: Comparison, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    groups = groups_of(comparison.rows)
    oracle = next((each for each in outcomes if each.way.name == "oracle"), None)
    methods = []
    for each in outcomes:
        same = None if oracle is None else _same(each.told, oracle.told)
        shares = {
            group: {"mean": sum(each.scores[at] for at in places) / len(places), "n": len(places)}
            for group, places in groups.items()
        }
        about = {"name": each.way.name, "label": each.way.label, "kind": each.way.kind, "needs": each.way.needs}
        methods.append({**about, "accuracy": shares, "agreement": same, **asdict(each.cost)})
    standings = [Standing(each.way.name, each.way.label, each.way.kind, each.scores) for each in outcomes]
    return {
        "rows": len(comparison.rows),
        "experts": comparison.library.names,
        "terms": asdict(comparison.terms),
        "groups": list(groups),
        "methods": methods,
        "verdict": verdict(standings),
    }


def _same(told: Sequence[str], others: Sequence[str]) -> float:
    return sum(one.strip() == other.strip() for one, other in zip(told, others, strict=True)) / len(told)


def _ground(comparison: Comparison) -> dict[str, Any]:
    """All that answers depend on beside the way."""
    asked = json.dumps([row.model_dump() for row in comparison.rows])
    experts = {name: [each.weights_hash, each.card.model_dump()] for name, each in comparison.library.items()}
    return {
        "rows": hashlib.sha256(asked.encode()).hexdigest(),
        "base": digest(fingerprint(comparison.base)),
        "experts": hashlib.sha256(json.dumps(experts).encode()).hexdigest(),
        "template": comparison.rendering.digest,
        "terms": {
            name: value for name, value in asdict(comparison.terms).items() if name not in ("metric", "batch_size")
        },
    }


def _kept(comparison: Comparison, way: Way, path: Path, ground: dict[str, Any]) -> tuple[list[str], Cost]:
    """What an earlier run answered to the same question; or what is answered now, and kept."""
    question = {"way": way.name, **ground}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["question"] == question:
            return found["told"], Cost(**found["cost"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing there, or something else: it is answered anew
    told, cost = comparison.measure(way)
    kept = {"question": question, "told": told, "cost": asdict(cost)}
    write_whole(path, json.dumps(kept, indent=1).encode())
    return told, cost


def _file_name(name: str) -> str:
    return "".join(each if each.isalnum() or each in "-_." else "_" for each in name)
