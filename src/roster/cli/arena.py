"""`roster arena`: side-by-side comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from roster.cli.common import console, quiet, table

app = typer.Typer(no_args_is_help=True, help="Compare many methods in one run, on equal terms.")


@app.command()
def moe(
    recipes: Annotated[
        list[str] | None, typer.Argument(help="Recipes of feed-forward mixtures; by default all of them.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs, result.json and report.html.")] = Path("arena-moe"),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings per recipe.")] = 3,
    steps: Annotated[int, typer.Option(min=10, help="Optimiser steps of each.")] = 300,
    width: Annotated[int, typer.Option(min=16, help="Model width.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 3,
    hidden: Annotated[int, typer.Option(min=8, help="Hidden units that one token may use.")] = 192,
    rows: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 12,
    length: Annotated[int, typer.Option(min=8, help="Tokens per row.")] = 96,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.")] = "auto",
) -> None:
    """Train small language models, one per recipe and seed, on equal terms, and report what came of it.

    Text: the standard library's sources, Python's manual, and roster's own skills; nothing is downloaded. A run that
    was cut off goes on where it stopped when it is started again with the same folder and terms. Without names every
    recipe is trained, which takes about an hour of one core per seed.

    \b
    Examples:
      roster arena moe switch-transformer --seeds 1 --steps 10 --out my-arena
    """
    import torch

    from roster.arena.moe.compare import compare, contenders
    from roster.arena.moe.pretrain import Terms
    from roster.arena.moe.report import markdown, verdict, write_page
    from roster.files import write_whole

    quiet()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    terms = Terms(
        steps=steps, rows=rows, length=length, width=width, layers=layers, hidden=hidden, device=device
    )  # fmt: skip
    result = compare(contenders(recipes or ()), terms, seeds, out / "runs")
    write_whole(out / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    write_whole(out / "result.md", markdown(result).encode())
    page = write_page(result, out / "report.html")
    made = table("recipe", "loss", "gain over dense", "tokens/s", right=("loss", "gain over dense", "tokens/s"))
    for row in result["recipes"]:
        loss, gain = row["validation"]["all"], row["gain_over_dense"]
        spread = f"{loss['mean']:.3f} [{loss['low']:.3f}, {loss['high']:.3f}]"
        made.add_row(row["recipe"], spread, f"{gain['mean']:+.3f}", f"{row['tokens_per_second']:.0f}")
    console().print(made)
    for sentence in verdict(result):
        console().print(sentence)
    console().print(f"Report: {page}", soft_wrap=True)
