"""`roster lm board`: public benchmarks of routers, read from their own files and scored as they score."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from roster.cli.lm_recipes import recipes_for
from roster.errors import RosterError

app = typer.Typer(no_args_is_help=True, help="Public benchmarks of routers: read their files, score as they do.")


class Board(StrEnum):
    """Whose files and score."""

    routerbench = "routerbench"
    routerarena = "routerarena"


@app.command("import")
def import_board(
    board: Annotated[Board, typer.Argument(help="Whose files.")],
    files: Annotated[list[Path], typer.Argument(help="As downloaded; RouterArena's folders too.")],
    out: Annotated[Path, typer.Option(help="The folder of records to write.")],
) -> None:
    """Write a board's own files as records.

    RouterBench: its table as .jsonl, .csv or .parquet (a pickle is never loaded; the message says how to convert it).
    RouterArena: cached results, predictions and router_data.json, in any order.

    \b
    Examples (with files that you have downloaded):
      roster lm board import routerbench routerbench_0shot.jsonl --out bench
      roster lm board import routerarena cached_results router_data.json \\
        --out arena
    """
    from roster.lm.boards import read_routerarena, read_routerbench
    from roster.lm.storing import save_records

    if board is Board.routerbench and len(files) != 1:
        raise RosterError(f"RouterBench's table is one file, not {len(files)}")
    records = read_routerbench(files[0]) if board is Board.routerbench else read_routerarena(files)
    save_records(records, out)
    typer.echo(f"{len(records)} prompts, {len(records.models)} models: {', '.join(records.models)}")
    for note in records.notes:
        typer.echo(f"note: {note}")


@app.command("score")
def score(
    board: Annotated[Board, typer.Argument(help="Whose score.")],
    data: Annotated[str, typer.Argument(help="A folder of records, or recorded data such as `llmrouter`.")],
    router: Annotated[list[str], typer.Option("--router", help="A recipe's name; may be repeated.")],
) -> None:
    """Score routers as a board does: AIQ (RouterBench) or its arena score (RouterArena), on the test split.

    \b
    Examples:
      roster lm board score routerarena zeroeval --router lm-knn
      roster lm board score routerbench zeroeval --router lm-knn \\
        --router lm-best-single
    """
    from roster.lm.boards import routerarena_scores, routerbench_scores
    from roster.lm.storing import find_records

    records = find_records(data)
    makers = {recipe.slug: recipe for recipe in recipes_for(router, records)[0]}
    if board is Board.routerbench:
        for slug, value in routerbench_scores(records, makers).items():
            typer.echo(f"{slug}: AIQ {value:.4f}")
        return
    for slug, found in routerarena_scores(records, makers).items():
        typer.echo(
            f"{slug}: score {found.score:.4f} (accuracy {found.accuracy:.4f}, "
            f"{found.cost_per_1000:.4g} dollars per 1,000 prompts)"
        )
