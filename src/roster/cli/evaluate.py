"""`roster eval`: loads, answers, counts and prints; how answers are made is `roster.arena.evaluate`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.common import (
    DtypeOption,
    MixtureBase,
    MixtureFolder,
    TemplateOption,
    console,
    open_mixture,
    progress_bar,
    table,
)
from roster.errors import RosterError, nearest
from roster.files import write_whole
from roster.prompts import words

if TYPE_CHECKING:
    from roster.analyze.statistics import Tally
    from roster.train import Row


def evaluate(
    folder: MixtureFolder,
    data: Annotated[
        Path | None, typer.Option(help="JSONL with prompt (or messages), answer and, if you like, task.")
    ] = None,
    lm_eval: Annotated[
        str | None,
        typer.Option(help="In place of --data: tasks of lm-evaluation-harness, a,b,c: names, or paths of YAML."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --lm-eval: items of each task, at most.")] = None,
    tasks: Annotated[
        bool | None, typer.Option(help="Whether to tell the mixture each row's task; by default if it routes by task.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 64,
    template: TemplateOption = None,
    dtype: DtypeOption = None,
    base: MixtureBase = None,
    base_too: Annotated[bool, typer.Option(help="Also measure the base alone.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write every answer, as JSONL.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Prompts to show with the answers.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a saved mixture, and its base beside it, on prompts with known answers: share of exact matches.

    A row with `"answer": null` asks for the base's own answer. With --lm-eval the tasks are the harness's
    (pip install 'roster-moe[lm-eval]').

    \b
    Examples:
      roster build pocket pocket --router arrow-mbc --out my-mixture
      roster pocket data --split test --count 2 > test.jsonl
      roster eval my-mixture --data test.jsonl
      roster eval my-mixture --data test.jsonl --no-base-too --json
      roster eval my-mixture --data test.jsonl --out answers.jsonl --show 5
    """
    from roster.analyze.statistics import empty
    from roster.arena.evaluate import check_lengths
    from roster.arena.side_by_side import print_answers
    from roster.routed.becoming import detach
    from roster.train.data import numbered_rows

    if (data is None) == (lm_eval is None):
        raise RosterError("give --data FILE.jsonl or --lm-eval TASKS, one of them")
    if lm_eval is not None:
        return _harness(open_mixture(folder, base, template, dtype), lm_eval, batch_size, limit, base_too, as_json)
    assert data is not None
    numbered = numbered_rows(data)
    rows = list(numbered.values())
    for number, row in numbered.items():
        if row.answer is None and not base_too:
            raise RosterError(f"{data}, line {number}: no answer is given, so that the base's is asked for: --base-too")
    model = open_mixture(folder, base, template, dtype)
    names = [f"{data}, line {number}: the prompt" for number in numbered]
    check_lengths(model, model.roster.rendering, [row.asked for row in rows], max_new_tokens, names)
    told = _tasks(model.roster, numbered, tasks, str(data))
    result: dict[str, Any] = {"recipe": model.roster.recipe, "experts": len(model.roster.experts)}
    tokenizer = model.roster.rendering
    with progress_bar() as bars:

        def answer(name: str, model: Any, **kwargs: Any) -> tuple[list[str], list[Tally]]:
            bar = bars.add_task(name, total=len(rows))
            kwargs |= {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
            return _answer(model, tokenizer, rows, lambda count: bars.advance(bar, count), **kwargs)

        said: dict[str, list[str]] = {}
        said["mixture"], tallies = answer("mixture", model, tasks=told)
        entropy = sum(tallies, empty(len(model.roster.experts))).mean_entropy
        # JSON has no nan: no entropy where no token had an expert.
        result["entropy"] = None if math.isnan(entropy) else entropy
        if base_too:
            said["base"], _ = answer("base", detach(model))
    wanted = [said["base"][at] if row.answer is None else row.answer for at, row in enumerate(rows)]
    right = {
        side: [one.strip() == want.strip() for one, want in zip(told, wanted, strict=True)]
        for side, told in said.items()
    }
    result |= {side: _shares(rows, hits) for side, hits in right.items()}
    if out is not None:
        write_whole(out, _lines(rows, said, right).encode("utf-8", "backslashreplace"))
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        _print(result)
        scores = {side: [float(hit) for hit in hits] for side, hits in right.items()}
        print_answers(rows, said, scores, console(), show)


def _harness(model: Any, tasks: str, batch_size: int, limit: int | None, base_too: bool, as_json: bool) -> None:
    """What lm-evaluation-harness finds."""
    from rich.markup import escape

    from roster.arena.harness import scores
    from roster.routed.becoming import detach

    recipe, rendering = model.roster.recipe, model.roster.rendering
    wanted = [name.strip() for name in tasks.split(",") if name.strip()]
    found = {recipe: scores(model, rendering, wanted, batch_size=batch_size, limit=limit)}
    if base_too:
        found["base"] = scores(detach(model), rendering, wanted, batch_size=batch_size, limit=limit)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    made = table("task", "metric", *found, right=tuple(found))
    for task, metrics in found[recipe].items():
        for metric in metrics:
            made.add_row(escape(task), escape(metric), *(f"{side[task][metric]:.4f}" for side in found.values()))
    console().print(made)


def _lines(rows: Sequence[Row], said: dict[str, list[str]], right: dict[str, list[bool]]) -> str:
    """A line a row: what was asked and wanted, what was said, and whether that is right."""
    lines = [
        {
            **row.model_dump(exclude_none=True),
            "said": {side: told[at] for side, told in said.items()},
            "right": {side: hits[at] for side, hits in right.items()},
        }
        for at, row in enumerate(rows)
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _tasks(mixture: Any, numbered: dict[int, Row], asked: bool | None, data: str) -> list[str | None] | None:
    """What to pass as `tasks=`; a task that the mixture does not know would silently be answered by the base."""
    if not mixture.plan.routes_by_task:
        if asked:
            raise RosterError(f"recipe {mixture.recipe!r} does not route by task; leave --tasks out")
        return None
    if asked is False:
        return [None] * len(numbered)
    for number, row in numbered.items():
        if row.task is not None and row.task not in mixture.tasks:
            raise RosterError(
                f"{data}, line {number}: unknown task {row.task!r}: {nearest(row.task, mixture.tasks)} "
                "(--no-tasks names none to the mixture)"
            )
    return [row.task for row in numbered.values()]


def _answer(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    advance: Callable[[int], None],
    *,
    tasks: Sequence[str | None] | None = None,
    batch_size: int,
    max_new_tokens: int,
) -> tuple[list[str], list[Tally]]:
    """(the answers, tallies of the routes); traced batch by batch, so that memory stays bounded."""
    from contextlib import nullcontext

    from roster.api import trace
    from roster.arena.evaluate import answers

    tallies: list[Tally] = []
    said = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda at: len(words(rows[at].asked)))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        with trace(model) if hasattr(model, "roster") else nullcontext() as routes:
            texts = answers(
                model,
                tokenizer,
                [rows[at].asked for at in batch],
                tasks=None if tasks is None else [tasks[at] for at in batch],
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                progress=advance,
            )
        for at, text in zip(batch, texts, strict=True):
            said[at] = text
        if routes is not None:
            tallies += routes.layer_tallies().values()
    return said, tallies


def _shares(rows: Sequence[Row], right: Sequence[bool]) -> dict[str, Any]:
    """Share of right answers with its interval, in all and per task."""
    from roster.arena.evaluate import wilson

    groups: dict[str, list[bool]] = {}
    for row, each in zip(rows, right, strict=True):
        if row.task is not None:
            groups.setdefault(row.task, []).append(each)

    def share(hits: Sequence[bool]) -> dict[str, float]:
        low, high = wilson(sum(hits), len(hits))
        return {"accuracy": sum(hits) / len(hits), "low": low, "high": high, "right": sum(hits), "rows": len(hits)}

    return {"all": share(right), "tasks": {task: share(hits) for task, hits in groups.items()}}


def _print(result: dict[str, Any]) -> None:
    from rich.markup import escape

    sides = {result["recipe"]: result["mixture"]} | ({"base": result["base"]} if "base" in result else {})
    made = table("task", "rows", *sides, right=("rows", *sides), title="Right answers, % [95 % interval]")
    for task in ("all", *result["mixture"]["tasks"]):
        shares = [side["all"] if task == "all" else side["tasks"][task] for side in sides.values()]
        made.add_row(escape(task), str(shares[0]["rows"]), *map(_cell, shares), end_section=task == "all")
    console().print(made)
    if result["entropy"] is not None:
        most = math.log(result["experts"])
        typer.echo(f"mean route entropy {result['entropy']:.2f} nats, at most ln {result['experts']} = {most:.2f}")


def _cell(share: dict[str, float]) -> str:
    return rf"{100 * share['accuracy']:.1f} \[{100 * share['low']:.1f}, {100 * share['high']:.1f}]"
