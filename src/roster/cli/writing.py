"""What commands that write checkpoints share: how a run is shown, and which folder a name means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from roster.cli.common import console, progress_bar, quiet, table
from roster.errors import RosterError

EvalOption = Annotated[
    Path | None,
    typer.Option(
        "--eval", help="JSONL with text, or prompt, answer and choices: measure old and new on it, loaded whole."
    ),
]


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


class Asking:
    """What `--eval` asks; read, and refused, before any work.

    Args:
        data: the file; None where nothing is asked.
        plan: whether nothing is made that could be measured.
    """

    def __init__(self, data: Path | None, plan: bool) -> None:
        self._data = data
        self._items: Any = None
        if data is not None:
            if plan:
                raise RosterError("--eval measures what was made, and --plan makes nothing: leave one of them out")
            from roster.arena.checkpoints import read_items  # PEFT and transformers take seconds to import

            self._items = read_items(data)

    def __bool__(self) -> bool:
        return self._data is not None

    def answered(self, models: Mapping[str, str], out: Path) -> dict[str, Any]:
        """Measures the inputs, by the names that are shown, and the result; prints and returns what was found."""
        from roster.arena.checkpoints import compare
        from roster.weights.page import RESULT, quality_table

        quiet()
        found = compare({**models, RESULT: str(out)}, self._items, str(self._data), progress=self._told)
        shown = quality_table(found)
        grid = table(*shown.columns, right=shown.columns[1:])
        for row in shown.rows:
            grid.add_row(*row)
        console().print(grid)
        return found

    @staticmethod
    def _told(model: str, done: int, count: int) -> None:
        if done == count:
            console(stderr=True).print(f"measured {model}: {count} rows", highlight=False)


def place(name: str) -> str:
    """`pocket` is the model that comes with roster, as it is elsewhere."""
    if name != "pocket":
        return name
    from roster import pocket

    return str(pocket.base_path())
