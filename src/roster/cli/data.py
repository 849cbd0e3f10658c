"""`roster data select`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from roster.cli.common import DtypeOption, TemplateOption, complain, dtype_argument, quiet
from roster.cli.ticks import ticking
from roster.errors import RosterError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def about() -> None:
    """Data for experts: choose what is worth learning from."""


@app.command("select")
def select(
    pool: Annotated[Path, typer.Argument(help="JSONL with prompt (or messages) and answer, to choose from.")],
    out: Annotated[Path, typer.Option(help="The file to write: the chosen lines, in the pool's order.")],
    base: Annotated[str, typer.Option(help="A model folder, a name on the Hugging Face hub, or `pocket`.")],
    by: Annotated[str, typer.Option(help="less, ifd, near or random.")] = "less",
    target: Annotated[
        Path | None, typer.Option(help="JSONL of rows that the expert should get right; for less and near.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="How many lines.")] = None,
    share: Annotated[float, typer.Option(help="The same as a share of the pool.")] = 0.05,
    scores: Annotated[Path | None, typer.Option(help="A file for every line's number and score.")] = None,
    warm_up: Annotated[
        int | None, typer.Option(min=0, help="Rows to learn from before scoring; by default a twentieth for less.")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Numbers that less projects gradients to.")] = 8192,
    epochs: Annotated[int, typer.Option(min=1, help="Rounds of the warm-up of less, each scored.")] = 4,
    rank: Annotated[int, typer.Option(min=1, help="Of the warm-up's LoRA.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Of the warm-up.")] = 2e-4,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    template: TemplateOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Choose the rows of a pool that an expert should learn from.

    less: rows whose gradient points to where the target's loss falls. ifd: rows whose prompt helps to say the answer,
    but least. near: rows whose prompts are like the target's. random: the yardstick. What was interrupted goes on when
    the same command is run again.

    \b
    Examples:
      roster pocket data --count 4 > pool.jsonl
      roster pocket data --skill sort --split test --count 4 > target.jsonl
      roster data select pool.jsonl --base pocket --by near \\
        --target target.jsonl --count 6 --out near.jsonl
      roster data select pool.jsonl --base pocket --target target.jsonl \\
        --epochs 1 --width 1024 --out less.jsonl
      roster data select pool.jsonl --base pocket --by ifd --share 0.2 \\
        --out hard.jsonl --scores scores.jsonl
    """
    from dataclasses import replace

    from roster.cli.experts import tokenizer_of
    from roster.curation.select import LESSON, WAYS, best, passes
    from roster.curation.select import scores as score
    from roster.errors import nearest
    from roster.files import numbered_lines, write_whole
    from roster.prompts import Rendering
    from roster.routed.base import load_base
    from roster.train.data import numbered_rows

    if by not in WAYS:
        raise RosterError(f"--by {by!r} is unknown: {nearest(by, WAYS)}")
    if not 0 < share <= 1:
        raise RosterError(f"--share lies above 0, up to 1; not {share}")
    answers = by in ("less", "ifd")
    rows = numbered_rows(pool, answers)
    aimed = [] if target is None else list(numbered_rows(target, answers).values())
    lesson = replace(LESSON, rank=rank, alpha=2 * rank, epochs=epochs, learning_rate=learning_rate, seed=seed)
    rendering = Rendering(tokenizer_of(base), template is not False)
    quiet()
    model, _ = load_base(base, **dtype_argument(dtype))
    wanted = count if count is not None else max(1, round(share * len(rows)))
    scratch = out.with_name(out.name + ".selecting")
    try:
        with ticking("rows", len(rows) * passes(by, lesson)) as tick:
            found_N = score(
                by,
                model,
                rendering,
                list(rows.values()),
                aimed,
                scratch,
                lesson=lesson,
                warm_up=warm_up,
                width=width,
                tick=tick,
            )
    except KeyboardInterrupt:
        complain(f"{out} was not written; run the same command again to go on", code=130)
    numbers, lines = list(rows), numbered_lines(pool)
    chosen = best(found_N, wanted)
    write_whole(out, "".join(lines[numbers[at]] + "\n" for at in chosen).encode())
    if scores is not None:
        told = [
            {"line": number, "score": None if found_N[at] == -float("inf") else round(float(found_N[at]), 6)}
            for at, number in enumerate(numbers)
        ]
        write_whole(scores, "".join(json.dumps(each) + "\n" for each in told).encode())
    if len(chosen) < wanted:
        typer.echo(f"only {len(chosen)} rows are worth learning from by {by}, of {wanted} asked for", err=True)
    typer.echo(f"wrote {out}: {len(chosen)} of {len(rows)} rows")
