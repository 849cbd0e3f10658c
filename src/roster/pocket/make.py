"""Make the pocket models again, all of them, with one command: ``python -m roster.pocket.make``.

Stages: the base, each expert, the multi-task adapter, the gates beside the experts, each router, the measurements. A
stage whose result is in the output folder already is skipped unless ``--force`` is given. A result is written to a
temporary folder, then renamed, so that whatever has its final name is complete. ``record.json`` tells how everything
was made and what it scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from roster.pocket import MODELS, ROUTERS
from roster.pocket.skills import HELD_IN

EXAMPLE = """example:
  python -m roster.pocket.make --out my-pocket            everything, into a folder of your own
  python -m roster.pocket.make --only sort --force        one expert anew; then measure again with --only record
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    stages = ["base", *HELD_IN, "multitask", "gates", *ROUTERS, "record"]
    parser = argparse.ArgumentParser(
        prog="python -m roster.pocket.make",
        description="Train and measure the pocket base, its experts and the multi-task adapter. "
        "One core suffices; finished stages are skipped.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=MODELS, metavar="DIR", help="where to (default: the package)")
    parser.add_argument("--force", action="store_true", help="make again what is there already")
    parser.add_argument(
        "--only", nargs="+", choices=stages, default=stages, metavar="STAGE", help="of: " + ", ".join(stages)
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages asked for, with a progress bar each."""
    options = parse(arguments)
    # Imported here so that --help needs no second of torch.
    from transformers.utils import logging

    from roster.pocket import stages
    from roster.pocket.record import Record

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options.out.mkdir(parents=True, exist_ok=True)
    record = Record(options.out / "record.json")
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console()) as progress:
        workshop = stages.Workshop(options.out, record, progress, options.force)
        for stage in options.only:
            workshop.run(stage)
    print(f"done: {options.out}")


if __name__ == "__main__":
    main()
