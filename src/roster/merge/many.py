"""Many merges into one folder, on whatever workers; each is streamed, and goes on after a kill, as one alone does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from roster.errors import RosterError
from roster.files import write_whole
from roster.merge.config import read_config
from roster.merge.plan import plan_merge
from roster.merge.running import carry_out
from roster.workers import Workers

Asked = tuple[Path, Path, int, bool, bool]
"""The YAML file, the folder to write, bytes of a shard; whether to replace a folder; whether to report."""


def merge_many(
    configs: Sequence[Path],
    out: Path,
    *,
    max_shard: int,
    overwrite: bool = False,
    figures: bool = True,
    workers: Workers = Workers(),
    report: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Carries out every config, into a folder of its own name.

    Args:
        configs: mergekit's YAML.
        out: gets a folder for each, and a hidden file beside it that says of which plan it is.
        max_shard: bytes of an output file.
        overwrite: whether folders that are there are replaced.
        figures: whether each folder has `merge.json` and `merge.html`.
        workers: where merges run; with several machines, all must see the models and `out`.
        report: is told of every merge that ends.

    Returns:
        The folders, in the configs' order. One that is there already, of the same plan, is left as it is.

    Raises:
        RosterError: two configs of one name, a config that cannot be carried out, a folder that holds something else;
            all before any weight is read.
    """
    folders = [(out / config.stem).resolve() for config in configs]
    twice = next((each for each in folders if folders.count(each) > 1), None)
    if twice is not None:
        raise RosterError(f"two of the files are called {twice.name!r}: their results would be one folder")
    todo: list[Asked] = []
    for config, folder in zip(configs, folders, strict=True):
        plan = plan_merge(read_config(config), max_shard)
        if folder.exists() and _mark(folder).is_file() and _mark(folder).read_text("utf-8") == plan.fingerprint():
            report(f"{folder.name}: is there already")
        elif folder.exists() and not overwrite:
            raise RosterError(f"{str(folder)!r} is there already, and not by this plan; give --overwrite to replace it")
        else:
            todo.append((config.resolve(), folder, max_shard, overwrite, figures))
    for done, (place, written) in enumerate(workers.map(_carry_out, todo), 1):
        report(f"{done}/{len(todo)}: {todo[place][1].name}, {written:,} bytes")
    return folders


def _carry_out(asked: Asked) -> int:
    """One merge, in whatever process: plans are made where they are carried out, for they hold open files.

    Returns:
        Bytes written.
    """
    path, folder, max_shard, overwrite, figures = asked
    config = read_config(path)
    plan = plan_merge(config, max_shard)
    if folder.exists() and _mark(folder).is_file() and _mark(folder).read_text("utf-8") == plan.fingerprint():
        return plan.bytes_to_write  # the worker before died between the merge and its report
    carry_out(config, plan, None, folder, overwrite=overwrite, figures=figures)
    write_whole(_mark(folder), plan.fingerprint().encode())
    return plan.bytes_to_write


def _mark(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.plan")
