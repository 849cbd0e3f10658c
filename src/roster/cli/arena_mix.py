"""`roster arena mix`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roster.cli.common import (
    DtypeOption,
    JobsOption,
    RayOption,
    complain,
    console,
    dtype_argument,
    experts_folder,
    quiet,
)
from roster.errors import RosterError

if TYPE_CHECKING:
    from roster.arena.grounds import Ground


def mix(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(help="Recipes, as NAME or NAME:option=value,...; by default all that route among adapters."),
    ] = None,
    ground: Annotated[str, typer.Option(help="`pocket`, `smol`, `reasoning`, or a folder, with --data.")] = "pocket",
    data: Annotated[
        Path | None, typer.Option(help="For a folder: JSONL with prompt (or messages), answer, task, group.")
    ] = None,
    lessons: Annotated[
        Path | None, typer.Option(help="For a folder: JSONL of the same kind, for recipes that have to be trained.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="For a folder or `reasoning`: the base, where adapters name none.")
    ] = None,
    experts: Annotated[
        Path | None, typer.Option(help="For `reasoning`: adapters of its tasks; for `smol`: others than its own.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for records, result.json and report.html.")] = Path("arena-mix"),
    seeds: Annotated[int, typer.Option(min=1, help="Draws of prompts, each with trainings of its own.")] = 1,
    scale: Annotated[float, typer.Option(min=0.01, help="Multiplies the number of prompts; not of a folder.")] = 1.0,
    size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Try so many adapters, too: the first ones, or noisy copies added; repeatable."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps of each training.")] = None,
    metric: Annotated[str, typer.Option(help="exact, contains, or package.module:function(said, wanted).")] = "exact",
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 32,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of an answer.")] = None,
    jobs: JobsOption = 1,
    ray: RayOption = None,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Whether to measure time per token.")] = True,
    matrix: Annotated[
        bool, typer.Option("--matrix/--no-matrix", help="Whether every expert answers every task alone, too.")
    ] = True,
    dtype: DtypeOption = None,
) -> None:
    """Compare any ways to use a folder of adapters on any ground: accuracy, cost, data needed, who is taken for whom.

    Beside the recipes stand the base, the best single adapter, uniform mixing, the merged adapters and the oracle.
    Every recipe and seed has a record of its own: a run that was stopped goes on where it was when it is started again
    with the same folder, and one that adds recipes answers nothing twice. `--ground smol` is SmolLM2-135M-Instruct with
    its 18 adapters (after `roster smol prepare`), `--size 64` tries 64 adapters, `--jobs 2` takes two processes.

    \b
    Examples:
      roster arena mix auto arrow-mbc --scale 0.05 --no-time --out arena
      roster pocket data --split test --count 1 > few.jsonl
      roster arena mix auto --ground pocket --data few.jsonl --no-time
    """
    from roster.arena.compare import Terms
    from roster.arena.metrics import metric_of
    from roster.arena.mix_page import write_page
    from roster.arena.mix_result import compare_all, every_recipe
    from roster.arena.ways import check_recipes
    from roster.files import write_whole
    from roster.workers import Workers

    workers = Workers(jobs, ray)
    metric_of(metric)
    dtype_argument(dtype)
    names = recipes or every_recipe()
    check_recipes(names)
    quiet()
    where = _ground(ground, data, lessons, base, experts, range(seeds), scale)
    if steps is not None:
        where = replace(where, settings=replace(where.settings, steps=steps))
    terms = Terms(max_new_tokens or where.new_tokens, batch_size, metric, timed, traced=True)
    try:
        result = compare_all(
            where,
            names,
            list(range(seeds)),
            size or [],
            terms,
            out.absolute(),
            workers,
            console(stderr=True),
            dtype,
            matrix,
        )
    except KeyboardInterrupt:
        complain(f"what is done is kept in {out}; run the same command again to go on", code=130)
    write_whole(out / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    page = write_page(result, out / "report.html")
    for sentence in result["verdict"]:
        console().print(sentence, markup=False, highlight=False, soft_wrap=True)
    for name, why in result["failed"].items():
        console().print(f"{name} could not take part: {why}", markup=False, highlight=False, soft_wrap=True)
    console().print(f"Report: {page}", soft_wrap=True)


def _ground(
    name: str,
    data: Path | None,
    lessons: Path | None,
    base: str | None,
    experts: Path | None,
    seeds: range,
    scale: float,
) -> Ground:
    from roster.arena.grounds import (
        POCKET,
        REASONING,
        SMOL,
        own_ground,
        pocket_ground,
        reasoning_ground,
        smol_ground,
    )

    if data is None and (lessons is not None or (base is not None and name != REASONING)):
        raise RosterError("--lessons and --base go with a folder of adapters and --data")
    if experts is not None and name not in (SMOL, REASONING):
        raise RosterError("--experts goes with --ground smol or reasoning; a folder of one's own is the ground itself")
    if data is not None:
        folder = experts_folder(name)
        return own_ground(folder, data, seeds, lessons, base or ("pocket" if name == POCKET else None))
    if name == POCKET:
        return pocket_ground(seeds, scale)
    if name == SMOL:
        return smol_ground(seeds, scale, experts)
    if name == REASONING:
        if experts is None:
            raise RosterError("--ground reasoning needs adapters whose cards name its tasks: give --experts FOLDER")
        return reasoning_ground(experts, seeds, scale, base)
    raise RosterError(
        f"--ground {name!r} is not `pocket`, `smol` or `reasoning`: a folder of adapters goes with --data"
    )


def reasoning(
    tasks: Annotated[list[str], typer.Argument(help="Tasks of reasoning-gym.")],
    count: Annotated[int, typer.Option(min=1, help="Prompts of each.")] = 40,
    split: Annotated[str, typer.Option(help="train, or test: no prompt is in both.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
) -> None:
    """Write prompts and answers of reasoning-gym as JSONL, to train adapters on for `roster arena mix`.

    Needs the package reasoning-gym: pip install 'roster-moe[reasoning]'.

    \b
    Examples:
      roster arena reasoning chain_sum --count 200 > chain_sum.jsonl
    """
    from roster.arena.reasoning import reasoning_rows

    if split not in ("train", "test"):
        raise RosterError(f"--split is train or test, not {split!r}")
    for row in reasoning_rows(tasks, "train" if split == "train" else "test", count, seed):
        typer.echo(json.dumps(row.model_dump(exclude_none=True), ensure_ascii=False))
