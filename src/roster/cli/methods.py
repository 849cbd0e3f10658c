"""`roster methods`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli.common import console, table

if TYPE_CHECKING:
    from roster.recipes import Recipe

_KEYS = ("kind", "source", "trains", "batch_invariant", "claim", "claim_shown", "evidence")
_SHOWN = {True: "shown", False: "not shown here", None: "no verdict yet"}


def methods(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, keyed by slug.")] = False) -> None:
    """List every recipe: source, what it trains, its claim, and whether that is shown here.

    Of the kind "mixture" are routers among adapters, of "moe" among feed-forward blocks, of "lm" among whole models; a
    "study" is something to run. Batch-invariant methods give a row the same answer whatever else is in its batch.

    \b
    Examples:
      roster methods
      roster methods --json
    """
    from roster.recipes import RECIPES

    if as_json:
        catalogue = {slug: {key: getattr(recipe, key) for key in _KEYS} for slug, recipe in RECIPES.items()}
        typer.echo(json.dumps(catalogue, indent=1))
        return
    from rich.markup import escape

    made = table(
        "name", "kind", "method and source", "trains", "batch-invariant", "claim and evidence", show_lines=True
    )
    made.columns[0].no_wrap = True
    for slug, recipe in RECIPES.items():
        title = recipe.title if recipe.source == "roster" else f"{recipe.title}\n{recipe.source}"
        invariant = "yes" if recipe.batch_invariant else "no"
        made.add_row(slug, recipe.kind, escape(title), recipe.trains, invariant, escape(_claim(recipe)))
    console().print(made)


def _claim(recipe: Recipe) -> str:
    if recipe.claim is None:
        return f"a yardstick, no claim\n{recipe.evidence}"
    return f"{recipe.claim}\n{_SHOWN[recipe.claim_shown]}: {recipe.evidence}"
