"""The lines of a log, checked: JSONL, or Parquet with the extra `parquet`. What they mean is not this file's business.

Everything that is wrong is reported with its line number. Columns that nobody asked for are named and left out, unless
one is spelled so much like a missing one that it is likely to be meant.
"""

from __future__ import annotations

import codecs
import difflib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from roster.errors import RosterError, nearest

_MOST_ERRORS = 10
_ALIKE = 0.85
"""From which similarity on a name is taken for a slip of the pen; "prompt_id" is less like "prompt"."""

L = TypeVar("L", bound=pydantic.BaseModel)


def read_lines(path: Path, kind: type[L]) -> tuple[list[L], list[str]]:
    """All lines of a log.

    Args:
        path: `.jsonl` or `.parquet`; a byte-order mark is read over.
        kind: what a line is.

    Returns:
        the lines, and notes for people.

    Raises:
        RosterError: what is wrong, line by line, or there is no line.
    """
    lines: list[L] = []
    errors: list[str] = []
    ignored: Counter[str] = Counter()
    for number, row in rows(path):
        try:
            if isinstance(row, Exception):
                raise row
            known = {name: row[name] for name in kind.model_fields if name in row}
            extra = [name for name in row if name not in known]
            _refuse_slips(extra, known, kind)
            ignored.update(extra)
            lines.append(kind.model_validate(known))
        except pydantic.ValidationError as error:
            errors.append(f"line {number}: {_first(error, row)}")
        except ValueError as error:
            errors.append(f"line {number}: {error}")
    if errors:
        more = f"; and {len(errors) - _MOST_ERRORS} more lines" if len(errors) > _MOST_ERRORS else ""
        raise RosterError(f"{path}: " + "; ".join(errors[:_MOST_ERRORS]) + more)
    if not lines:
        raise RosterError(f"{path}: there are no calls in it")
    names = ", ".join(sorted(ignored)[:10]) + (", ..." if len(ignored) > 10 else "")
    return lines, [f"columns that are not read: {names}"] if ignored else []


def rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, object) of each line, or (line number, what is wrong with it).

    Raises:
        RosterError: a Parquet file cannot be read.
    """
    if path.suffix == ".parquet":
        yield from enumerate(_parquet(path), start=1)
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, _object(line)


def _object(line: bytes) -> Any:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return ValueError("not UTF-8 text")
    except RecursionError:
        return ValueError("nested too deeply")
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON: {error.msg}")
    except ValueError as error:
        return error
    return row if isinstance(row, dict) else ValueError("a line must be a JSON object")


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RosterError("reading Parquet needs an extra: pip install 'roster-moe[parquet]'") from None
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise RosterError(f"{path}: not a readable Parquet file: {error}") from None
    # Parquet has no missing keys, only nulls and NaN.
    return [{key: None if value != value else value for key, value in row.items()} for row in rows]


def _refuse_slips(extra: list[str], known: dict[str, Any], kind: type[pydantic.BaseModel]) -> None:
    missing = [name for name in kind.model_fields if known.get(name) is None]
    for name in extra:
        if difflib.get_close_matches(name, missing, n=1, cutoff=_ALIKE):
            raise ValueError(f"unknown key {name!r}: {nearest(name, missing)}")


def _first(error: pydantic.ValidationError, row: Any) -> str:
    found = error.errors()[0]
    name = ".".join(map(str, found["loc"]))
    if found["type"] == "missing":
        return f"{name!r} is missing"
    if name == "score" and "than or equal" in found["msg"]:
        return f"score {row.get('score')!r} is not between 0 and 1; rescale the scores"
    if found["type"] == "value_error":
        return str(found["ctx"]["error"])
    return f"{name!r}: {found['msg'].lower()}"
