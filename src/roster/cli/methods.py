"""`roster methods`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from roster.cli import app

_HELP = """List every recipe: source, what it trains, whether batch-mates matter, its claim and whether it is shown.

**Examples**

    roster methods
    roster methods --json
"""
_KEYS = ("source", "trains", "batch_invariant", "claim", "claim_shown", "evidence")


@app.command(help=_HELP)
def methods(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, keyed by slug.")] = False) -> None:
    """The catalogue."""
    from roster.recipes import RECIPES

    if as_json:
        table = {slug: {key: getattr(recipe, key) for key in _KEYS} for slug, recipe in RECIPES.items()}
        typer.echo(json.dumps(table, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    shown = {True: "shown", False: "not shown here", None: "–"}
    table = Table(show_lines=True)
    for column in ("name", "source", "trains", "batch-invariant", "claim", "shown", "evidence"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for slug, recipe in RECIPES.items():
        table.add_row(
            slug,
            recipe.title if recipe.source == "roster" else recipe.source,
            recipe.trains,
            "yes" if recipe.batch_invariant else "no",
            recipe.claim or "–",
            shown[recipe.claim_shown],
            recipe.evidence,
        )
    Console().print(table)
