"""Progress of work that is counted: a bar on a terminal, a line at each tenth where the output is a pipe or a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from roster.cli.common import console, progress_bar


@contextmanager
def ticking(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function that takes how many more are done, and shows it on standard error."""
    if console(stderr=True).is_terminal:
        with progress_bar() as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
        return
    done = tenth = 0

    def tick(count: int) -> None:
        nonlocal done, tenth
        done += count
        if 10 * done // max(total, 1) > tenth:
            tenth = 10 * done // max(total, 1)
            typer.echo(f"{what}: {done} of {total}", err=True)

    yield tick
