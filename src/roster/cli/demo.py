"""`roster demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roster.cli import app
from roster.cli.common import quiet

_HELP = """Compare ways to use a folder of adapters, on the models that come with roster: one table, one HTML report.

**Examples**

    roster demo
    roster demo --examples 2 --method arrow-mbc --method uniform --out quick-report
"""


@app.command(help=_HELP)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("roster-report"),
    examples: Annotated[int, typer.Option(help="Test prompts per skill.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 0,
    method: Annotated[list[str] | None, typer.Option(help="Only this contender, beside the base; repeatable.")] = None,
) -> None:
    """Runs the comparison and says where the report is."""
    from roster.arena.mix import demo as run

    quiet()
    report = run(out, examples, seed, method)
    typer.echo(f"\nreport: {report.resolve()}")
