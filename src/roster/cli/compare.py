"""`roster compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.common import (
    DtypeOption,
    ExpertsFolder,
    TemplateOption,
    console,
    dtype_argument,
    experts_folder,
    progress_bar,
    quiet,
)
from roster.errors import RosterError

if TYPE_CHECKING:
    from roster.train import Row


def compare(
    base: Annotated[str, typer.Argument(help="A model folder, a name on the Hugging Face hub, or `pocket`.")],
    experts: ExpertsFolder,
    data: Annotated[
        Path, typer.Option(help="JSONL with prompt (or messages), answer and, if you like, task and group.")
    ],
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="A router to compare, as NAME or NAME:option=value,...; repeatable. `auto` is always there."),
    ] = None,
    mixture: Annotated[
        list[Path] | None,
        typer.Option(help="What `roster build` made of the same folder, for trained routers; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for answers and results; a stopped run carries on.")] = Path(
        "roster-compare"
    ),
    metric: Annotated[str, typer.Option(help="exact, contains, or package.module:function(said, wanted).")] = "exact",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 32,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 32,
    show: Annotated[int, typer.Option(min=0, help="Prompts to show with every answer.")] = 3,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Whether to measure time per token.")] = True,
    template: TemplateOption = None,
    dtype: DtypeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare routers with what a folder of adapters gives without one: one's own adapters, on one's own prompts.

    Base, best single adapter, uniform mixing, merged adapters, the oracle (where rows name a task that a card has),
    `auto` and the recipes given. The first line says what routing gains. A row with `"answer": null` asks for the
    base's own answer.

    \b
    Examples:
      roster pocket data --split test --count 1 > few.jsonl
      roster compare pocket pocket --data few.jsonl --no-time --show 2
    """
    from roster.arena.compare import Comparison, Terms
    from roster.arena.compare import compare as run
    from roster.arena.metrics import metric_of
    from roster.arena.ways import ways_of
    from roster.library import Library
    from roster.prompts import Rendering
    from roster.routed.base import load_base, load_tokenizer
    from roster.train import read_rows

    metric_of(metric)
    rows, library = read_rows(data), Library.read(experts_folder(experts))
    ways = ways_of(library, rows, recipe or [], mixture or [])
    quiet()
    model, _ = load_base(base, **dtype_argument(dtype))
    tokenizer = load_tokenizer(base)
    if tokenizer is None:
        raise RosterError(f"there is no tokenizer beside {base!r}")
    terms = Terms(max_new_tokens, batch_size, metric, timed)
    with progress_bar() as bars:
        rendering = Rendering(tokenizer, template is not False)
        result = run(Comparison(model, library, rendering, rows, terms, bars), ways, out)
    if as_json:
        typer.echo(json.dumps({name: each for name, each in result.items() if name != "outcomes"}, indent=1))
    else:
        tell(result, rows, out, show)


def tell(result: dict[str, Any], rows: Sequence[Row], out: Path, show: int = 3) -> None:
    """Prints a comparison: verdict, table, some prompts with every answer."""
    from roster.arena.side_by_side import print_answers, print_comparison

    print_comparison(result, console())
    said = {each.way.label: each.told for each in result["outcomes"]}
    print_answers(rows, said, {each.way.label: each.scores for each in result["outcomes"]}, console(), show)
    typer.echo(f"\nall answers: {out / 'answers.jsonl'}")
