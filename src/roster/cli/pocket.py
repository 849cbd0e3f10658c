"""`roster pocket data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from roster.errors import RosterError, nearest

app = typer.Typer(no_args_is_help=True)


@app.callback()
def about() -> None:
    """The small models and skills that come with roster."""


@app.command("data")
def data(
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    count: Annotated[int, typer.Option(min=1, help="Rows per skill.")] = 50,
    group: Annotated[str | None, typer.Option(help="held-in (the default), unseen or composed.")] = None,
    skill: Annotated[list[str] | None, typer.Option(help="Only this skill; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A file to write; by default the terminal.")] = None,
) -> None:
    """Write prompts and answers of the skill suite as JSONL, for `roster build --data` and `roster eval --data`.

    \b
    Examples:
      roster pocket data --split test --count 2
      roster pocket data --skill reverse --split test --count 50 > skills.jsonl
      roster pocket data --group composed --split test --out composed.jsonl
    """
    from roster.files import write_whole
    from roster.pocket.skills import COMPOSED, HELD_IN, UNSEEN, examples

    groups = {"held-in": HELD_IN, "unseen": UNSEEN, "composed": COMPOSED}
    if skill and group is not None:
        raise RosterError("give --group or --skill, not both")
    group = group or "held-in"
    if group not in groups:
        raise RosterError(f"unknown group {group!r}: {nearest(group, groups)}")
    rows = [each for name in skill or groups[group] for each in examples(name, split, count, seed)]
    lines = [json.dumps({"prompt": each.prompt, "answer": each.answer, "task": each.skill}) for each in rows]
    text = "\n".join(lines) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_whole(out, text.encode())
