"""The arena `mix`: ways to use one folder of adapters, compared on held-in, unseen and composed skills.

Every contender answers the same prompts with the same base and the same experts. Baselines and bounds stand next to
the recipes. The pocket models make it a demo of a few minutes; what a contender is, is in `contenders.py`.

Legend: a *group* of skills is held-in (an expert exists), unseen (none does) or composed (two in one prompt).
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from roster import pocket
from roster.analyze.heatmap import heatmap_html
from roster.api import trace
from roster.arena.contenders import CONTENDERS, Contender, single_experts
from roster.arena.evaluate import answers
from roster.arena.report import write_report
from roster.arena.summary import accuracy_by_group, per_skill, print_table, verdicts
from roster.arena.timing import BATCH, plain_copy, relative_time
from roster.errors import RosterError, nearest
from roster.files import write_whole
from roster.library import Library
from roster.pocket.skills import COMPOSED, HELD_IN, JOIN, UNSEEN, Example, examples, is_correct
from roster.prompts import Rendering
from roster.routed.becoming import detach

GROUPS = {"held-in": HELD_IN, "unseen": UNSEEN, "composed": COMPOSED}
NEW_TOKENS = 28
MATRIX_EXAMPLES = 8
TRACED = 3


@dataclass
class Entry:
    """One contender's results.

    Attributes:
        right: for each test example, whether the answer was right.
        agreement: share of routing decisions, on held-in prompts, whose strongest expert is the oracle's.
        extra_parameters: numbers beyond the base's.
        time_ratio: seconds per token relative to the base.
    """

    contender: Contender
    right: list[bool]
    agreement: float | None = None
    extra_parameters: int = 0
    time_ratio: float | None = None


@dataclass
class Arena:
    """What all contenders share.

    Attributes:
        base, tokenizer, library: the pocket models.
        asked: the test examples, the same for all.
        seed: of the examples.
        progress: where bars are drawn; where its console is no terminal, a line says what was answered.
        entries: results so far, by contender.
    """

    base: Any
    tokenizer: Any
    library: Library
    asked: list[Example]
    seed: int
    progress: Progress
    entries: dict[str, Entry] = field(default_factory=dict)
    heatmaps: list[dict[str, str]] = field(default_factory=list)

    def answer(
        self, model: Any, asked: Sequence[Example], what: str, tasks: Sequence[str | None] | None = None
    ) -> list[bool]:
        """Whether a model answers each example right."""
        told = self.tell(model, asked, what, tasks)
        return [is_correct(each, text) for each, text in zip(asked, told, strict=True)]

    def tell(
        self, model: Any, asked: Sequence[Example], what: str, tasks: Sequence[str | None] | None = None
    ) -> list[str]:
        """What a model answers to each example."""
        bar = self.progress.add_task(what, total=len(asked))
        start = time.monotonic()
        told = answers(
            model,
            self.tokenizer,
            [each.prompt for each in asked],
            tasks=tasks,
            batch_size=128,
            max_new_tokens=NEW_TOKENS,
            progress=lambda count: self.progress.advance(bar, count),
        )
        if not self.progress.console.is_terminal:  # a pipe or a file shows no bars
            line = f"{what}: {len(asked)} prompts, {time.monotonic() - start:.1f} s"
            self.progress.console.print(line, markup=False, highlight=False)
        return told

    def by_part(self, model: Any, what: str) -> list[bool]:
        """The same where the expert of each part is on duty in a pass of its own and gives that part of the answer."""
        told = []
        for at in (0, 1):
            tasks = [each.parts[min(at, len(each.parts) - 1)] if each.parts else None for each in self.asked]
            told.append(self.tell(model, self.asked, f"{what}, part {at + 1}", tasks))
        joined = [
            first if len(each.parts) < 2 else first.split(JOIN)[0].strip() + JOIN + second.split(JOIN)[-1].strip()
            for each, first, second in zip(self.asked, *told, strict=True)
        ]
        return [is_correct(each, text) for each, text in zip(self.asked, joined, strict=True)]

    def enter(self, contender: Contender) -> None:
        """Runs one contender and leaves the base plain again."""
        model = contender.make(self)
        try:
            tasks = [contender.task(each) for each in self.asked] if contender.task is not None else None
            right = (
                self.by_part(model, contender.label)
                if contender.by_part
                else self.answer(model, self.asked, contender.label, tasks)
            )
            entry = Entry(contender, right)
            entry.extra_parameters = contender.extra_parameters(model, self.base)
            entry.time_ratio = None if contender.name == "base" else self._time(model, contender)
            if contender.kind == "recipe":
                entry.agreement = self._agreement(model, contender)
                if contender.traced:
                    self._draw(model, contender)
            self.entries[contender.name] = entry
        finally:
            if hasattr(model, "roster"):
                detach(model)

    def _time(self, model: Any, contender: Contender) -> float:
        asked = self.asked[:: max(1, len(self.asked) // BATCH)][:BATCH]
        inputs: dict[str, Any] = dict(Rendering(self.tokenizer).inputs([each.prompt for each in asked]))
        if contender.task is not None:
            inputs["tasks"] = [contender.task(each) for each in asked]
        return relative_time(model, plain_copy(model) if hasattr(model, "roster") else self.base, inputs)

    def _agreement(self, model: Any, contender: Contender) -> float:
        """Over prompts and answers of held-in skills."""
        asked = [each for skill in HELD_IN for each in examples(skill, "test", 4, self.seed)]
        texts = [each.prompt + each.answer for each in asked]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        given = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        if contender.task is not None:
            given["task_ids"] = model.task_ids([contender.task(each) for each in asked])
        lengths = torch.tensor([len(self.tokenizer(each.prompt)["input_ids"]) for each in asked])
        given["prompt_mask"] = torch.arange(inputs["input_ids"].shape[1]) < lengths[:, None]
        with trace(model) as routes, torch.no_grad():
            model(**given)
        hits = total = 0
        for row, each in enumerate(asked):
            index = self.library.names.index(each.skill)
            mask_S = routes.mask(row)
            for site in routes.sites:
                gates_SE = routes.gates(site, row)[mask_S]
                # A route with several strongest experts decides for none of them.
                best_S1 = gates_SE.max(1, keepdim=True).values
                decided_S = (gates_SE == best_S1).sum(1) == 1
                hits += int((decided_S & (gates_SE.argmax(1) == index)).sum())
                total += len(gates_SE)
        return hits / total

    def _draw(self, model: Any, contender: Contender) -> None:
        for skills in GROUPS.values():
            each = examples(skills[0], "test", 1, self.seed)[0]
            with trace(model) as routes:
                told = answers(model, self.tokenizer, [each.prompt], max_new_tokens=NEW_TOKENS)[0]
            title = f"{contender.label}: {each.skill}"
            html = heatmap_html(routes, title=title)
            self.heatmaps.append({"title": title, "prompt": each.prompt, "answer": told.strip(), "html": html})


def demo(
    out: Path,
    examples: int = 24,
    seed: int = 0,
    methods: Sequence[str] | None = None,
    console: Console | None = None,
) -> Path:
    """Runs the comparison on the pocket models and writes the report.

    Args:
        out: folder for `report.html` and `result.json`.
        examples: test examples per skill.
        seed: of the examples.
        methods: contenders to run besides the base; by default all.
        console: where the table and the bars go.

    Returns:
        The report's path.

    Raises:
        RosterError: an unknown contender, or fewer than one example.
    """
    console = console or Console()
    known = {contender.name: contender for contender in CONTENDERS}
    for name in methods or ():
        if name not in known:
            raise RosterError(f"unknown contender {name!r}: {nearest(name, known)}")
    if examples < 1:
        raise RosterError(f"a comparison needs at least 1 example per skill, not {examples}")
    chosen = [each for each in CONTENDERS if methods is None or each.name in methods or each.name == "base"]
    torch.manual_seed(seed)
    start = time.monotonic()
    result = run(chosen, examples, seed, console)
    result["seconds"] = round(time.monotonic() - start, 1)
    write_whole(out / "result.json", json.dumps(result, indent=1).encode())
    report = write_report(result, out / "report.html")
    print_table(result, console)
    return report


def run(contenders: Sequence[Contender], count: int, seed: int, console: Console) -> dict[str, Any]:
    """Runs contenders and returns the result, in the layout of `roster.arena.report`."""
    base, tokenizer = pocket.load_base()
    library = Library.read(pocket.experts_path())
    asked = [each for skills in GROUPS.values() for skill in skills for each in examples(skill, "test", count, seed)]
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        arena = Arena(base, tokenizer, library, asked, seed, progress)
        matrix = single_experts(arena, GROUPS, MATRIX_EXAMPLES)
        for contender in contenders:
            arena.enter(contender)
    methods = [_method(entry, arena) for entry in arena.entries.values()]
    return {
        "title": "Ways to use a folder of adapters",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("roster-moe", "torch", "transformers", "peft")},
        "seed": seed,
        "seconds": 0.0,
        "examples_per_skill": count,
        "groups": list(GROUPS),
        "methods": methods,
        "skills": {group: list(skills) for group, skills in GROUPS.items()},
        "matrix": matrix,
        "per_skill": per_skill(arena.entries, asked, [skill for skills in GROUPS.values() for skill in skills]),
        "heatmaps": arena.heatmaps,
        "verdict": verdicts(arena.entries, asked, list(GROUPS)),
    }


def _method(entry: Entry, arena: Arena) -> dict[str, Any]:
    contender = entry.contender
    return {
        "name": contender.name,
        "label": contender.label,
        "kind": contender.kind,
        "trains": contender.trains,
        "note": contender.note,
        "accuracy": accuracy_by_group(entry.right, arena.asked, list(GROUPS)),
        "agreement": entry.agreement,
        "extra_parameters": entry.extra_parameters,
        "ms_per_token_ratio": entry.time_ratio,
    }
