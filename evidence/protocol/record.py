"""Results on disk: one JSON line per run, written when the run ends, so that what was cut off goes on.

A line names the digest of the declaration that it belongs to; under another one it is refused.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from evidence.protocol.check import APART
from evidence.protocol.declaration import Declaration
from roster.errors import RosterError


@dataclass(frozen=True)
class Line:
    """One run.

    Attributes:
        contender, ground, luck: which.
        value: its statistic; None where it was no number.
        seconds: of the clock below.
        date: when it ended.
        made_by: machine and versions.
        code: digest of the source of the check and its grounds.
        declaration: digest of what was promised.
        clock: "processor" counts what the process computed; "wall", of the first lines, waiting too.
    """

    contender: str
    ground: int
    luck: int
    value: float | None
    seconds: float
    date: str
    made_by: str
    code: str
    declaration: str
    clock: str = "wall"

    @property
    def key(self) -> tuple[str, int, int]:
        """Which run it is."""
        return self.contender, self.ground, self.luck


class Record:
    """The lines of one declaration.

    Args:
        folder: of all records.
        declaration: whose they are.

    Raises:
        RosterError: there are lines of another declaration under this name and version.
    """

    def __init__(self, folder: Path, declaration: Declaration):
        self.path = folder / f"{declaration.name}.v{declaration.version}.jsonl"
        self.declaration = declaration
        self.lines: dict[tuple[str, int, int], Line] = {}
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        whole = 0
        content = self.path.read_bytes()
        for number, row in enumerate(content.splitlines(keepends=True), 1):
            if not row.endswith(b"\n"):
                break  # cut off while it was written: that run is run again
            whole += len(row)
            try:
                line = Line(**json.loads(row))
            except (ValueError, TypeError) as error:
                raise RosterError(f"{str(self.path)!r}, line {number}, is no result: {error}") from None
            if line.declaration != self.declaration.digest():
                raise RosterError(
                    f"{str(self.path)!r} holds results of another declaration ({line.declaration}): "
                    "a changed declaration gets a new version"
                )
            self.lines[line.key] = line
        if whole < len(content):
            os.truncate(self.path, whole)

    def add(self, line: Line) -> None:
        """Appends a line; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines[line.key] = line

    @property
    def complete(self) -> bool:
        """Whether every run that was declared is there."""
        found, again = self.values()
        return min(len(each) for each in [*found.values(), again]) >= self.declaration.seeds

    def values(self) -> tuple[dict[str, list[float]], list[float]]:
        """(Statistics by contender in the order of the seeds, the method's once more for the null)."""
        found: dict[str, list[float]] = {name: [] for name in self.declaration.contenders}
        again: list[float] = []
        for name, ground, luck in sorted(self.lines, key=lambda key: key[1]):
            value = self.lines[name, ground, luck].value
            number = float("nan") if value is None else value
            (again if luck == ground + APART else found[name]).append(number)
        return found, again
