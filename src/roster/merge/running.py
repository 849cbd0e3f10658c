"""A merge from folders to a folder, in one call; what `roster merge` does, without its words."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roster.errors import RosterError
from roster.merge.asked import make_config
from roster.merge.learned import Progress
from roster.merge.learning import Data, prepare
from roster.merge.methods import TRAINED
from roster.merge.plan import plan_merge
from roster.merge.report import Report
from roster.options import check_options
from roster.weights import run
from roster.weights.texts import LENGTH, ROWS


def merge_models(
    method: str,
    models: Sequence[str | Path],
    out: str | Path,
    *,
    base: str | Path | None = None,
    data: Sequence[str | Path] = (),
    rows: int = ROWS,
    length: int = LENGTH,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Merges by any method, those that train among them.

    Args:
        method: its slug.
        models: folders, hub names, BASE+ADAPTER; for `pem-arithmetic` folders of adapters.
        out: the folder to write.
        base: the model that they were made of.
        data: JSONL, for methods that learn or train.
        rows: of each file at most.
        length: tokens of a row at most.
        overwrite: whether a folder that is there is replaced.
        progress: told of steps of learning.
        settings: the method's.

    Returns:
        `out`.

    Raises:
        RosterError: anything that does not fit, before weights are read.
    """
    out, files = Path(out), [Path(each) for each in data]
    named, start = [str(each) for each in models], None if base is None else str(base)
    if out.exists() and not overwrite:
        raise RosterError(f"{str(out)!r} is there already; choose another folder, or let it be overwritten")
    if method in TRAINED:
        room = importlib.import_module(f"roster.merge.{TRAINED[method]}")
        check_options(method, room.Settings, settings)
        made = room.Settings(**settings)
        room.merge_folders(start, named, out, files, made, rows=rows, length=length, progress=progress)
        return out
    config = make_config(method, named, start, settings)
    folder = out.with_name(f".{out.name}.learned")
    learned = prepare(config, Data(files, folder, rows, length))
    plan = plan_merge(config, learned=learned)
    if learned is not None:
        learned.learn(progress)
    told = Report(config, plan)
    run(plan, out, overwrite=overwrite, watch=told.watch, report=told.files)
    shutil.rmtree(folder, ignore_errors=True)
    return out
