"""`roster build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from roster.cli.common import (
    DtypeOption,
    ExpertsFolder,
    TemplateOption,
    complain,
    dtype_argument,
    experts_folder,
    quiet,
)
from roster.options import parse_options


def build(
    base: Annotated[str, typer.Argument(help="A model folder, a name on the Hugging Face hub, or `pocket`.")],
    experts: ExpertsFolder,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    router: Annotated[str, typer.Option(help="A recipe; see `roster methods`.")] = "auto",
    examples: Annotated[
        Path | None,
        typer.Option(
            help="JSONL with expert and prompt (or messages): example prompts, in place of those on the cards."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="JSONL with prompt (or messages), answer, task; for recipes that train.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option of the recipe, name=value; repeatable.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    template: TemplateOption = None,
    dtype: DtypeOption = None,
    include_base: Annotated[
        bool | None,
        typer.Option(
            "--base/--no-base", help="Whether the base's files go along; by default when it has no public name."
        ),
    ] = None,
) -> None:
    """Build a mixture from a base and a folder of PEFT adapters, train its router where it has to be, and save it.

    A training that is interrupted goes on from its last checkpoint when the same command is run again.

    By default `auto` routes: each prompt goes to the adapter whose example prompts it resembles, or to the base.

    \b
    Examples:
      roster build pocket pocket --out my-mixture
      roster build pocket pocket --router arrow-mbc --out arrow
      roster build pocket pocket --router arrow-mbc --option top_k=1 --out top-1
      roster pocket data --split train --count 4 > train.jsonl
      roster build pocket pocket --router x-lora --data train.jsonl \\
        --steps 2 --out routed
    """
    from roster.recipes import find

    options = parse_options(option or [])
    find(router)(options)  # before anything slow
    from roster.library.examples import read_examples
    from roster.train import Settings, read_rows
    from roster.train import build as build_mixture

    rows = None if data is None else read_rows(data)
    save_every = max(1, min(100, steps // 4))
    settings = Settings(steps, batch_size, learning_rate, seed, save_every)
    quiet()
    try:
        record = build_mixture(
            base,
            experts_folder(experts),
            router,
            out,
            rows=rows,
            examples=None if examples is None else read_examples(examples),
            options=options,
            settings=settings,
            include_base=include_base,
            template=template is not False,
            **dtype_argument(dtype),
        )
    except KeyboardInterrupt:
        complain(f"{out} was not written; run the same command again to go on from the last checkpoint", code=130)
    for line in _losses(record):
        typer.echo(line, err=True)
    typer.echo(f"wrote {out}")


def _losses(record: dict[str, Any]) -> list[str]:
    """One line per training: there is one, or one per expert."""
    runs = {"": record} if "losses" in record else {f"{name}: ": each for name, each in record.items()}
    return [
        f"{name}loss {next(iter(run['losses'].values()))} -> {list(run['losses'].values())[-1]} in {run['seconds']} s"
        for name, run in runs.items()
        if run["losses"]
    ]
