"""`make evidence`: runs what the declarations ask for, and writes what it says, good or bad.

python -m evidence.run                           # all that is missing, and the pages
python -m evidence.run --only rmoe --jobs 2      # one check, two processes
python -m evidence.run --ray HOST:6379           # on the machines of a Ray cluster
python -m evidence.run --declare                 # write down new declarations; commit them, then run
python -m evidence.run --pages                   # the pages from the records there are
python -m evidence.run --quick                   # every contender for a few steps; only its time is kept
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from evidence.protocol.declaration import declare
from evidence.protocol.page import QUICK, write_pages
from evidence.protocol.record import Record
from evidence.protocol.runner import run_all, try_all
from evidence.registry import MODULES, find
from roster.errors import RosterError
from roster.files import write_whole
from roster.workers import Workers

ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MODULES), default=list(MODULES), metavar="CHECK")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster to run on instead")
    parser.add_argument("--folder", type=Path, default=ROOT / "evidence", help="with declarations and records")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--declare", action="store_true", help="write declarations only")
    what.add_argument("--pages", action="store_true", help="write pages only")
    what.add_argument("--quick", action="store_true", help="try every contender for a few steps")
    asked = parser.parse_args(arguments)
    try:
        if asked.declare:
            declare_all(asked.only, asked.folder)
        elif asked.quick:
            took = try_all(asked.only, find, report=_say)
            if asked.only == list(MODULES):
                write_whole(asked.folder / QUICK, (json.dumps(took, indent=1) + "\n").encode())
        else:
            if not asked.pages:
                run_all(asked.only, find, asked.folder, Workers(asked.jobs, asked.ray), report=_say)
            write_pages(asked.folder, ROOT / "docs" / "results", ROOT / "src" / "roster" / "recipes" / "verdicts.json")
    except RosterError as error:
        sys.exit(f"evidence: {error}")


def declare_all(names: Sequence[str], folder: Path) -> None:
    """Writes down what has no results yet; refuses what has, and was changed."""
    for name in names:
        declaration = find(name).declaration
        has_results = (folder / "records" / f"{declaration.name}.v{declaration.version}.jsonl").exists()
        path = declare(declaration, folder / "declarations", has_results)
        Record(folder / "records", declaration)
        _say(f"{path.name}: {declaration.digest()}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
