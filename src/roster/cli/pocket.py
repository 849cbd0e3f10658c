"""`roster pocket data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from roster.cli import app
from roster.errors import RosterError, nearest

group = typer.Typer(no_args_is_help=True, help="The small models and skills that come with roster.")
app.add_typer(group, name="pocket")

_DATA = """Write prompts and answers of the skill suite as JSONL, for `roster build --data` and `roster eval --data`.

**Examples**

    roster pocket data --split test --count 2
    roster pocket data --skill reverse --split train --count 50 --out train.jsonl
"""


@group.callback()
def about() -> None:
    """The small models and skills that come with roster."""


@group.command("data", help=_DATA)
def data(
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    count: Annotated[int, typer.Option(min=1, help="Rows per skill.")] = 50,
    group_name: Annotated[str, typer.Option("--group", help="held-in, unseen or composed.")] = "held-in",
    skill: Annotated[list[str] | None, typer.Option(help="Only this skill; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A file to write; by default the terminal.")] = None,
) -> None:
    """Rows of prompt, answer and task."""
    from roster.files import write_whole
    from roster.pocket.skills import COMPOSED, HELD_IN, UNSEEN, examples

    groups = {"held-in": HELD_IN, "unseen": UNSEEN, "composed": COMPOSED}
    if group_name not in groups:
        raise RosterError(f"unknown group {group_name!r}: {nearest(group_name, groups)}")
    rows = [each for name in skill or groups[group_name] for each in examples(name, split, count, seed)]
    lines = [json.dumps({"prompt": each.prompt, "answer": each.answer, "task": each.skill}) for each in rows]
    if out is None:
        typer.echo("\n".join(lines))
    else:
        write_whole(out, ("\n".join(lines) + "\n").encode())
