"""What a training was begun for: kept beside its checkpoints, so that only the same command takes it up again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from roster.errors import RosterError
from roster.files import write_whole
from roster.library import Library, digest, fingerprint
from roster.processes import is_first, wait_for_all
from roster.train.data import Row, digest_of
from roster.train.fit import Settings

PLAN = "plan.json"


def plan_of(
    recipe: str,
    options: Mapping[str, Any],
    base: nn.Module,
    library: Library,
    rows: Sequence[Row],
    settings: Settings,
    template: str,
) -> dict[str, Any]:
    """All that decides how a training goes, as JSON."""
    return {
        "recipe": recipe,
        "options": dict(options),
        "base": digest(fingerprint(base)),
        "experts": {name: adapter.weights_hash for name, adapter in library.items()},
        "chat template": template,
        "data": digest_of(rows),
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("progress", "save_every")},
    }


@contextmanager
def scratch_folder(folder: Path, plan: Mapping[str, Any]) -> Iterator[Path]:
    """A folder for the checkpoints of one training: gone when it ends, and when it breaks off before a checkpoint.

    Several processes of one training share it.

    Args:
        folder: where; what an interrupted training with the same plan left there is kept for it.
        plan: see `plan_of`.

    Raises:
        RosterError: the folder holds another training, or something else.
    """
    plan = json.loads(json.dumps(plan))
    _check(folder, plan)
    wait_for_all()
    if is_first():
        write_whole(folder / PLAN, json.dumps(plan, indent=1).encode())
    try:
        yield folder
    except BaseException:
        if is_first() and not any(folder.rglob("checkpoint-*")):
            shutil.rmtree(folder)
        raise
    wait_for_all()
    if is_first():
        shutil.rmtree(folder)


def _check(folder: Path, plan: Mapping[str, Any]) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        found = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        different = [name for name in plan if found[name] != plan[name]]
    except (OSError, ValueError, KeyError, TypeError):
        raise RosterError(
            f"checkpoints would go to {str(folder)!r}, where something else is: move that away, or write elsewhere"
        ) from None
    if different:
        raise RosterError(
            f"{str(folder)!r} holds an interrupted training with another {' and another '.join(different)}: run that "
            "again to finish it, or delete the folder"
        )
