"""The command line: `roster`. Thin: every command parses, calls, prints; the work is elsewhere.

One file per group of commands; this one lists them and turns errors into exit codes. Whatever needs torch is imported
inside the commands, so that `--help` is quick. The docstring of a command is its help text: its "Examples" are run by
the tests, and `\\b` keeps their lines apart.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer

from roster.cli import (
    arena,
    attack,
    build,
    compare,
    compress,
    convert,
    data,
    demo,
    deploy,
    evaluate,
    experts_find,
    gateway,
    generate,
    lm,
    merge,
    methods,
    moe,
    offload,
    place,
    pocket,
    serve,
    smol,
    train,
)
from roster.cli.common import complain
from roster.errors import RosterError

_FILE_ERRORS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class Commands(typer.core.TyperGroup):
    """What users can mend becomes one line and exit code 2, an interrupt 130; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Called by typer for every command."""
        try:
            return super().invoke(ctx)
        except RosterError as error:
            complain(str(error))
        except _FILE_ERRORS as error:
            if error.filename is None:
                raise
            complain(f"{str(error.filename)!r}: {error.strerror}")
        except KeyboardInterrupt:
            complain("interrupted", code=130)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(build.build)
app.command()(compare.compare)
app.command("eval")(evaluate.evaluate)
app.command()(generate.generate)
app.command()(generate.inspect)
app.add_typer(experts_find.app, name="experts")
app.command()(methods.methods)
app.command()(demo.demo)
app.add_typer(train.app, name="train")
app.add_typer(data.app, name="data")
app.add_typer(lm.app, name="lm")
app.add_typer(moe.app, name="moe")
app.add_typer(offload.app, name="offload")
app.command()(offload.trace)
app.command()(place.place)
app.add_typer(pocket.app, name="pocket")
app.add_typer(smol.app, name="smol")
app.add_typer(arena.app, name="arena")
app.add_typer(gateway.app, name="gateway")
app.command()(serve.serve)
app.command()(deploy.deploy)
app.command()(attack.attack)
app.command()(merge.merge)
app.command()(convert.convert)
app.command()(compress.compress)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"roster {version('roster-moe')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Routed experts: many adapters on one job, and a router that decides who is on duty.

    \b
    Examples:
      roster --version
      roster methods
      roster build pocket pocket --router arrow-mbc --out my-mixture
      roster generate my-mixture "reverse: abcd ="
    """
    # As soon as PEFT imports it, it says on some processors that a faster kernel could be fetched.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def main() -> None:
    """The entry point of the console script."""
    try:
        app(prog_name="roster")
    except KeyboardInterrupt:
        sys.exit(130)
