"""`roster build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roster.cli import app
from roster.cli.common import experts_folder, parse_options, quiet

_HELP = """Build a mixture from a base and a folder of PEFT adapters, train its router where it has to be, and save it.

**Examples**

    roster build pocket pocket --router arrow-mbc --out my-mixture
    roster build pocket pocket --router uniform --out uniform-mixture
    roster pocket data --split train --count 4 --out train.jsonl
    roster build pocket pocket --router x-lora --data train.jsonl --steps 2 --out routed
"""


@app.command(help=_HELP)
def build(
    base: Annotated[str, typer.Argument(help="A model folder, a name on the Hugging Face hub, or `pocket`.")],
    experts: Annotated[str, typer.Argument(help="A folder of PEFT adapters, or `pocket`.")],
    router: Annotated[str, typer.Option(help="A recipe; see `roster methods`.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    data: Annotated[Path | None, typer.Option(help="JSONL with prompt, answer, task; for recipes that train.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option of the recipe, name=value; repeatable.")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    include_base: Annotated[
        bool | None, typer.Option("--base/--no-base", help="Put the base's files into the folder or not.")
    ] = None,
) -> None:
    """Parses, builds, says where it is."""
    from roster.recipes import find
    from roster.train import Settings, read_rows
    from roster.train import build as build_mixture

    options = parse_options(option or [])
    find(router)(options)
    rows = None if data is None else read_rows(data)
    quiet()
    record = build_mixture(
        base,
        experts_folder(experts),
        router,
        out,
        rows=rows,
        options=options,
        settings=Settings(steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed),
        include_base=include_base,
    )
    if losses := record.get("losses"):
        typer.echo(f"loss {next(iter(losses.values()))} -> {list(losses.values())[-1]} in {record['seconds']} s")
    typer.echo(f"wrote {out}")
