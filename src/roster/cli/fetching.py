"""Progress of downloads: a bar on a terminal, a line at each tenth where the output is a pipe or a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from roster.cli.common import console


@contextmanager
def shown() -> Iterator[Callable[[str, int, int | None], None]]:
    """A function that takes a file, its bytes so far and its size, and shows them on standard error."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield _lines(lambda line: screen.print(line, markup=False, highlight=False, soft_wrap=True))
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=screen) as bars:
        tasks: dict[str, int] = {}

        def update(path: str, done: int, size: int | None) -> None:
            if path not in tasks:
                tasks[path] = bars.add_task(path.rpartition("/")[2], total=size)
            bars.update(tasks[path], completed=done, total=size)  # type: ignore[arg-type]

        yield update


def _lines(say: Callable[[str], None]) -> Callable[[str, int, int | None], None]:
    said: dict[str, int] = {}

    def update(path: str, done: int, size: int | None) -> None:
        # Without a size, a line at each megabyte.
        step = 10 * done // size if size else done >> 20
        if step > said.get(path, -1):
            said[path] = step
            say(f"{path}: {done:,} of {size:,} bytes" if size else f"{path}: {done:,} bytes")

    return update
