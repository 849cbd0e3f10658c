"""`roster arena`: side-by-side comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from roster.cli.arena_mix import mix, reasoning
from roster.cli.common import JobsOption, RayOption, console, quiet, table

app = typer.Typer(no_args_is_help=True, help="Compare many methods in one run, on equal terms.")
app.command()(mix)
app.command()(reasoning)


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
    jobs: JobsOption = 1,
    ray: RayOption = None,
) -> None:
    """Train small language models, one per recipe and seed, on equal terms, and report what came of it.

    Text: the standard library's sources, Python's manual, and roster's own skills; nothing is downloaded. A run that
    was cut off goes on where it stopped when it is started again with the same folder and terms. Without names every
    recipe is trained, which takes about an hour of one core per seed. Every run has one thread, so that its figures do
    not depend on where it is made; --jobs and --ray make several at a time.

    \b
    Examples:
      roster arena moe switch-transformer --seeds 1 --steps 10 --jobs 2 \\
        --out my-arena
    """
    import torch

    from roster.arena.moe.compare import compare, contenders
    from roster.arena.moe.pretrain import Terms
    from roster.arena.moe.report import markdown, verdict, write_page
    from roster.files import write_whole
    from roster.workers import Workers

    workers = Workers(jobs, ray)
    quiet()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    terms = Terms(
        steps=steps, rows=rows, length=length, width=width, layers=layers, hidden=hidden, device=device
    )  # fmt: skip
    result = compare(contenders(recipes or ()), terms, seeds, out / "runs", workers=workers)
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


@app.command()
def search(
    recipe: Annotated[str, typer.Argument(help="A recipe of feed-forward mixtures.")],
    vary: Annotated[
        list[str],
        typer.Option(help="name=a,b,c or name=low..high or low..high:log; repeatable.", show_default=False),
    ],
    method: Annotated[str, typer.Option(help="hyperband, asha, bohb, bo, tpe or random.")] = "hyperband",
    trials: Annotated[int, typer.Option(min=2, help="Settings to try.")] = 30,
    steps: Annotated[int, typer.Option(min=10, help="Optimiser steps of a trial that is never stopped.")] = 300,
    least: Annotated[int, typer.Option(min=1, help="Steps after which one can be stopped at the earliest.")] = 11,
    eta: Annotated[int, typer.Option(min=2, help="One of so many goes on, for so many times the steps.")] = 3,
    confirm: Annotated[int, typer.Option(min=0, help="Other seeds on which best and defaults are judged.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    width: Annotated[int, typer.Option(min=16, help="Model width.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for the journal and result.json.")] = Path("arena-search"),
    jobs: JobsOption = 1,
    ray: RayOption = None,
) -> None:
    """Search a recipe's settings with small models, stopping early those that others beat.

    The best settings are then trained on other seeds, beside the recipe's defaults: what was chosen as the best of many
    flatters itself. `learning_rate` can be varied too. A search that was cut off goes on in its folder.

    \b
    Examples:
      roster arena search gshard-top2 --vary k=1,2 --vary balance=0.001..0.1:log \\
        --trials 4 --steps 12 --least 3 --confirm 1 --out my-search
    """
    import dataclasses

    from roster.arena.moe.pretrain import Terms
    from roster.arena.moe.search import parse_space, search_recipe
    from roster.errors import RosterError, nearest
    from roster.files import write_whole
    from roster.recipes import find
    from roster.search import METHODS
    from roster.workers import Workers

    if method not in METHODS:
        raise RosterError(f"--method {method!r}: {nearest(method, METHODS)}")
    quiet()
    result = search_recipe(
        recipe,
        parse_space(find(recipe), vary),
        Terms(steps=steps, width=width, layers=layers),
        dataclasses.replace(METHODS[method], eta=eta, least=least),
        trials=trials,
        folder=out,
        seed=seed,
        confirm=confirm,
        workers=Workers(jobs, ray),
        report=lambda line: typer.echo(line, err=True),
    )
    write_whole(out / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    best = ", ".join(f"{name}={value}" for name, value in result["best"].items())
    typer.echo(f"best: {best}")
    typer.echo(f"{result['steps']} steps; without stopping {result['steps_without_stopping']}")
    gain = result["gain_over_defaults"]
    if gain is not None:
        before, after = result["loss_of_defaults"]["mean"], result["loss_of_best"]["mean"]
        typer.echo(
            f"on other seeds: loss {after:.3f}, with the defaults {before:.3f}: a gain of {gain['mean']:+.3f} "
            f"[{gain['low']:+.3f}, {gain['high']:+.3f}] nats"
        )
