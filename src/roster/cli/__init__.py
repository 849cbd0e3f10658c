"""The command line: `roster`. Thin: every command parses, calls, prints; the work is elsewhere.

One file per group of commands. Whatever needs torch is imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from roster.errors import RosterError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Routed experts: many adapters on one job, and a router that decides who is on duty.",
)


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
    """Routed experts: many adapters on one job, and a router that decides who is on duty."""


def main() -> None:
    """Entry point: errors that users can mend become one line and exit code 2; an interrupt becomes 130."""
    from roster.cli import build, demo, evaluate, experts, generate, methods, pocket  # noqa: F401  they add commands

    try:
        app()
    except RosterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: a build takes up its training when the same command is run again", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
