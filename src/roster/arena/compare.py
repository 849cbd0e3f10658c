"""Ways to use one's own folder of adapters, compared on one's own prompts.

Every way answers the same prompts with the same base. What was answered is kept in the output folder by what it depends
on (prompts, base, adapters and their cards, way, terms), so that a comparison that was stopped carries on. The ways are
in `ways.py`, what is said of them in `verdict.py` and `side_by_side.py`; `tournament.py` has many recipes, seeds and
processes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress

from roster.arena.evaluate import answers, check_lengths
from roster.arena.lessons import Lessons
from roster.arena.metrics import metric_of
from roster.arena.routed_to import routed_to
from roster.arena.timing import BATCH, plain_copy, reads, relative_time
from roster.arena.verdict import Standing, verdict
from roster.arena.ways import Way
from roster.files import write_whole
from roster.library import Library, digest, fingerprint
from roster.prompts import Rendering
from roster.routed.becoming import detach
from roster.routed.running import is_added
from roster.train.data import Row, digest_of

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
        traced: whether it is found out which expert each prompt of `Comparison.looked_at` goes to.
    """

    max_new_tokens: int = 32
    batch_size: int = 32
    metric: str = "exact"
    timed: bool = True
    traced: bool = False


@dataclass(frozen=True)
class Cost:
    """What a way costs beside the base.

    Attributes:
        time: per token, relative to the base; None where it was not measured.
        prompt_reads, answer_reads: how often each token is read; 1 is what the base does.
        trained: numbers that were trained.
        memory: bytes beside the base's weights.
        prepare_s: seconds of the processor until the model was ready: attaching, reading examples, training.
    """

    time: float | None
    prompt_reads: float
    answer_reads: float
    trained: int
    memory: int = 0
    prepare_s: float = 0.0


@dataclass(frozen=True)
class Measured:
    """What a way did.

    Attributes:
        told: its answers, in the order of the rows.
        cost: see `Cost`.
        chosen: the expert that each row of `Comparison.looked_at` went to, None for none in particular; None where that
            was not looked at.
    """

    told: list[str]
    cost: Cost
    chosen: list[str | None] | None = None


@dataclass(frozen=True)
class Outcome:
    """What one way answered, in the order of the rows, how good each answer is (0 to 1), and what it cost."""

    way: Way
    told: list[str]
    scores: list[float]
    cost: Cost
    chosen: list[str | None] | None = None


@dataclass
class Comparison:
    """The ground that all ways share.

    Attributes:
        base: plain between two ways.
        library, rendering, rows, terms: as given.
        progress: bars; where its console is no terminal, a line a way says how far it is.
        of_base: the base's answers, which are the measure where a row has none.
        lessons: what ways that have to be trained are trained on; None where there is nothing.
        looked_at: rows for which `Terms.traced` looks who is chosen.
    """

    base: Any
    library: Library
    rendering: Rendering
    rows: Sequence[Row]
    terms: Terms
    progress: Progress
    of_base: dict[int, str] = field(default_factory=dict)
    lessons: Lessons | None = None
    looked_at: Sequence[Row] = ()

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

    def measure(self, way: Way) -> Measured:
        """One way's answers and costs, group by group; the base is plain again afterwards."""
        started = time.process_time()
        try:
            model = way.make(self)
            prepare_s = time.process_time() - started
            told = [""] * len(self.rows)
            groups = groups_of(self.rows)
            for name, places in groups.items():
                part = [self.rows[at] for at in places]
                what = way.label if len(groups) == 1 else f"{way.label}, {name}"
                for at, said in zip(places, self.tell(model, part, what, self.tasks(way, model, part)), strict=True):
                    told[at] = said
            chosen = None
            if self.terms.traced and hasattr(model, "roster"):
                alike = [self.library[name].card.task for name in model.roster.experts]
                tasks = self.tasks(way, model, self.looked_at)
                chosen = routed_to(model, self.rendering, self.looked_at, tasks, alike)
            return Measured(told, self._cost(way, model, prepare_s), chosen)
        finally:
            if hasattr(self.base, "roster"):
                detach(self.base)

    def _cost(self, way: Way, model: Any, prepare_s: float) -> Cost:
        sample = self.rows[:: max(1, len(self.rows) // BATCH)][:BATCH]
        inputs: dict[str, Any] = dict(self.rendering.inputs([row.asked for row in sample]))
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        inputs["pad_token_id"] = self.rendering.pad_token_id
        if way.told:
            inputs["tasks"] = self.tasks(way, model, sample)
        passes = reads(model, inputs)
        if way.name == "base":
            return Cost(1.0, *passes, 0)
        tensors = [*model.named_parameters(), *model.named_buffers()]
        added = {name: each for name, each in tensors if is_added(name)}
        memory = sum(each.numel() * each.element_size() for each in added.values())
        trained = 0  # what could be trained, and was not, does not count
        if way.data == "own data":  # each expert's gates were trained apart, and are fixed by now
            trained = sum(each.numel() for name, each in added.items() if ".router.score." in name)
        elif way.trains:
            trained = sum(each.numel() for each in added.values() if each.requires_grad)
        time_per_token = None
        if self.terms.timed:
            plain = plain_copy(model) if hasattr(model, "roster") else self.base
            time_per_token = relative_time(model, plain, inputs, rounds=3)
        return Cost(time_per_token, *passes, trained, memory, round(prepare_s, 2))


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
    check_rows(comparison)
    outcomes = judged(comparison, ways, [kept(comparison, way, out / KEPT) for way in ways])
    result = _result(comparison, outcomes)
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in answer_lines(comparison.rows, outcomes))
    write_whole(out / "answers.jsonl", lines.encode("utf-8", "backslashreplace"))
    write_whole(out / "result.json", json.dumps(result, indent=1).encode())
    return {**result, "outcomes": outcomes}


def check_rows(comparison: Comparison) -> None:
    """RosterError for a prompt that the model cannot take, before any is answered."""
    names = [f"row {number}: the prompt" for number in range(1, len(comparison.rows) + 1)]
    asked = [row.asked for row in comparison.rows]
    check_lengths(comparison.base, comparison.rendering, asked, comparison.terms.max_new_tokens, names)


def judged(comparison: Comparison, ways: Sequence[Way], measured: Sequence[Measured]) -> list[Outcome]:
    """What each way's answers are worth; the base is the first of the ways."""
    comparison.of_base = {id(row): said for row, said in zip(comparison.rows, measured[0].told, strict=True)}
    return [
        Outcome(way, each.told, comparison.score(comparison.rows, each.told), each.cost, each.chosen)
        for way, each in zip(ways, measured, strict=True)
    ]


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
        "looked at": digest_of(comparison.looked_at),
        "terms": {
            name: value for name, value in asdict(comparison.terms).items() if name not in ("metric", "batch_size")
        },
    }


def kept(comparison: Comparison, way: Way, folder: Path) -> Measured:
    """What an earlier run left in a folder for the same question; or what is answered now, and kept there."""
    path = folder / f"{_file_name(way.name)}.json"
    question = {"way": way.name, **_ground(comparison)}
    if way.trains and comparison.lessons is not None:
        question["lessons"] = comparison.lessons.digest
    with suppress(OSError, ValueError, KeyError, TypeError):  # nothing there, or something else: it is answered anew
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["question"] == question:
            return Measured(found["told"], Cost(**found["cost"]), found["chosen"])
    measured = comparison.measure(way)
    write_whole(path, json.dumps({"question": question, **asdict(measured)}, indent=1).encode())
    return measured


def _file_name(name: str) -> str:
    return "".join(each if each.isalnum() or each in "-_." else "_" for each in name)
