"""A merge from folders to a folder, in one call; what `roster merge` does, without its words."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from roster.errors import RosterError
from roster.merge.asked import make_config
from roster.merge.config import MergeConfig
from roster.merge.kin import check_kin
from roster.merge.learned import Learned, Progress
from roster.merge.learning import Data, prepare
from roster.merge.methods import find_method
from roster.merge.plan import plan_merge
from roster.merge.report import Report
from roster.weights import Plan, run
from roster.weights.run import Progress as Written
from roster.weights.texts import LENGTH, ROWS

Writes = Callable[..., str]
"""(plan, what is learned, folder to write, steps=, and `run`'s progress, watch and report) -> what to tell: carries out
a merge whose result the engine cannot write alone. The folder appears whole, and a killed one is taken up."""


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
    if out.exists() and not overwrite:
        raise RosterError(f"{str(out)!r} is there already; choose another folder, or let it be overwritten")
    config = make_config(method, [str(each) for each in models], None if base is None else str(base), settings)
    folder = out.with_name(f".{out.name}.learned")
    learned = prepare(config, Data(files, folder, rows, length))
    plan = plan_merge(config, learned=learned)
    carry_out(config, plan, learned, out, overwrite=overwrite, steps=progress)
    shutil.rmtree(folder, ignore_errors=True)
    return out


def carry_out(
    config: MergeConfig,
    plan: Plan,
    learned: Learned | None,
    out: Path,
    *,
    overwrite: bool = False,
    figures: bool = True,
    steps: Progress | None = None,
    progress: Written | None = None,
) -> str:
    """Learns what is to be learned, and writes the folder.

    Args:
        config: what was planned.
        plan: of it.
        learned: what the plan stands on.
        out: the folder to write.
        overwrite: whether a folder that is there is replaced.
        figures: whether it gets `merge.json` and `merge.html`.
        steps: told of steps of learning.
        progress: told of bytes written.

    Returns:
        What there is to tell; nothing for most.

    Raises:
        RosterError: a base that is not the models'; else see `roster.weights.run`.
    """
    told = Report(config, plan)
    check_kin(told.of_differences())
    watch, report = (told.watch, told.files) if figures else (None, None)
    writes = find_method(config.method).writes
    if writes is not None:
        return writes(plan, learned, out, steps=steps, progress=progress, watch=watch, report=report)
    if learned is not None:
        learned.learn(steps)
    run(plan, out, overwrite=overwrite, progress=progress, watch=watch, report=report)
    return ""
