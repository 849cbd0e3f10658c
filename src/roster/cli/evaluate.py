"""`roster eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from roster.cli import app
from roster.cli.common import open_mixture

_HELP = """Measure a saved mixture, and its base beside it, on prompts with known answers.

**Examples**

    roster build pocket pocket --router arrow-mbc --out my-mixture
    roster pocket data --split test --count 2 --out test.jsonl
    roster eval my-mixture --data test.jsonl
    roster eval my-mixture --data test.jsonl --json
"""


@app.command("eval", help=_HELP)
def evaluate(
    folder: Annotated[str, typer.Argument(help="What `roster build` wrote.")],
    data: Annotated[Path, typer.Option(help="JSONL with prompt, answer and, if you like, task.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 64,
    base_too: Annotated[bool, typer.Option(help="Also measure the base alone.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prints shares of right answers with 95 % intervals, in all and per task."""
    from roster.mixture.attach import detach
    from roster.train import read_rows

    rows = read_rows(data)
    model = open_mixture(folder)
    tokenizer, recipe = model.roster.tokenizer, model.roster.recipe
    tasks = None
    if model.roster.mixing.tasks is not None:
        tasks = [row.task if row.task in model.roster.tasks else None for row in rows]
    result = {recipe: _measure(model, tokenizer, rows, tasks, batch_size, max_new_tokens)}
    if base_too:
        result["base"] = _measure(detach(model), tokenizer, rows, None, batch_size, max_new_tokens)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        _print(result)


def _measure(model: Any, tokenizer: Any, rows: Any, tasks: Any, batch_size: int, max_new_tokens: int) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress

    from roster.arena.evaluate import answers, wilson

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("answering", total=len(rows))
        told = answers(
            model,
            tokenizer,
            [row.prompt for row in rows],
            tasks=tasks,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            progress=lambda count: progress.advance(bar, count),
        )
    groups: dict[str, list[bool]] = {"all": []}
    for row, text in zip(rows, told, strict=True):
        right = text.strip() == row.answer.strip()
        groups["all"].append(right)
        if row.task is not None:
            groups.setdefault(row.task, []).append(right)
    return {
        name: dict(zip(("share", "low", "high", "n"), (sum(r) / len(r), *wilson(sum(r), len(r)), len(r)), strict=True))
        for name, r in groups.items()
    }


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="right answers, percent, with 95 % intervals", title_justify="left")
    table.add_column("task")
    table.add_column("n", justify="right")
    for name in result:
        table.add_column(name, justify="right")
    first = next(iter(result.values()))
    for task, share in first.items():
        cells = [f"{100 * each[task]['share']:.1f} [{100 * each[task]['low']:.0f}, {100 * each[task]['high']:.0f}]"
                 for each in result.values()]  # fmt: skip
        table.add_row(task, str(share["n"]), *cells)
    Console().print(table)
