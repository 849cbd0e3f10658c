"""`roster demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roster.cli.common import console, quiet


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("roster-report"),
    examples: Annotated[int, typer.Option(min=1, help="Test prompts per skill.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts.")] = 0,
    methods: Annotated[str | None, typer.Option(help="Only these contenders, beside the base: a,b,c.")] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the report in a browser.")] = False,
) -> None:
    """Compare ways to use a folder of adapters, on the models that come with roster: one table, one HTML report.

    \b
    Examples:
      roster demo
      roster demo --examples 2 --methods uniform,arrow-mbc --out quick-report
    """
    from roster.arena.mix import demo as compare

    quiet()
    chosen = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    report = compare(out, examples, seed, chosen, console())
    typer.echo(f"\nreport: {report.resolve()}")
    if show:
        typer.launch(report.resolve().as_uri())
