"""What commands that write checkpoints share: how a run is shown, and which folder a name means."""

from __future__ import annotations

from typing import Any

import typer

from roster.cli.common import console, progress_bar


class Progress:
    """A bar on a terminal; on a pipe, a line at each tenth.

    Args:
        what: is going on, in a word.
        total: bytes to write.
    """

    def __init__(self, what: str, total: int) -> None:
        self._tenth = 0
        self._bar: Any = None
        if console(stderr=True).is_terminal:
            self._bar = progress_bar()
            self._task = self._bar.add_task(what, total=total)
            self._bar.start()

    def __call__(self, written: int, total: int, tensor: str) -> None:
        """See `roster.weights.run.Progress`."""
        if self._bar is not None:
            self._bar.update(self._task, completed=written)
            if written == total:
                self._bar.stop()
        elif (tenth := 10 * written // max(total, 1)) > self._tenth:
            self._tenth = tenth
            typer.echo(f"{10 * tenth} %: {written:,} of {total:,} bytes ({tensor})", err=True)


def place(name: str) -> str:
    """`pocket` is the model that comes with roster, as it is elsewhere."""
    if name != "pocket":
        return name
    from roster import pocket

    return str(pocket.base_path())
