"""Records as a folder: `roster.json` (models, currency), `prompts.jsonl` (and answers), `matrices.npz`. No pickle.

The folder is written whole or not at all (`roster.saving`).
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from roster.errors import RosterError
from roster.lm import data
from roster.lm.manifest import RecordsManifest, is_here, read
from roster.lm.records import MEASURED, Logged, Records
from roster.saving import MANIFEST, writing

_MATRICES = ("score_NM", "cost_NM", "delay_NM", "logprob_NM", "checked_NM", "check_cost_NM")
_PROMPTS, _NUMBERS = "prompts.jsonl", "matrices.npz"


def save_records(records: Records, folder: Path | str) -> Path:
    """Writes the folder, in the place of what was there.

    Raises:
        RosterError: it cannot be written; what was there is as it was.
    """
    manifest = RecordsManifest(
        name=records.name,
        models=list(records.models),
        currency=records.currency,
        notes=list(records.notes),
        prompts=len(records),
        worded=records.worded,
        missing=dict(records.missing),
        text=None if records.logged is None else records.logged.text,
    )
    matrices = {name: getattr(records, name) for name in _MATRICES if getattr(records, name) is not None}
    if records.logged is not None:
        matrices |= {name: getattr(records.logged, name) for name in MEASURED}
    with writing(folder, (MANIFEST, RecordsManifest.earlier, _PROMPTS, _NUMBERS)) as new:
        with open(new / _PROMPTS, "w", encoding="utf-8", newline="\n") as file:
            for n in range(len(records)):
                file.write(json.dumps(_row(records, n)) + "\n")
        with open(new / _NUMBERS, "wb") as numbers:
            np.savez_compressed(numbers, **matrices)
        (new / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return Path(folder)


def _row(records: Records, n: int) -> dict[str, Any]:
    row = {"prompt": records.prompts[n], "dataset": records.datasets[n], "split": records.splits[n]}
    return row if records.answer_NM is None else {**row, "answers": list(records.answer_NM[n])}


def load_records(folder: Path | str) -> Records:
    """The records in a folder.

    Raises:
        RosterError: there are none, or they cannot be read.
    """
    folder = Path(folder)
    about = read(folder, RecordsManifest)
    try:
        with open(folder / _PROMPTS, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        with np.load(folder / _NUMBERS, allow_pickle=False) as stored:
            matrices = {name: stored[name] for name in stored.files}
        answers = None
        if rows and "answers" in rows[0]:
            answers = np.empty((len(rows), len(about.models)), dtype=object)
            for n, row in enumerate(rows):
                answers[n] = row["answers"]
        return Records(
            name=about.name,
            prompts=tuple(row["prompt"] for row in rows),
            models=tuple(about.models),
            score_NM=matrices["score_NM"],
            cost_NM=matrices["cost_NM"],
            delay_NM=matrices["delay_NM"],
            datasets=tuple(row["dataset"] for row in rows),
            splits=tuple(row["split"] for row in rows),
            currency=about.currency,
            answer_NM=answers,
            logprob_NM=matrices.get("logprob_NM"),
            checked_NM=matrices.get("checked_NM"),
            check_cost_NM=matrices.get("check_cost_NM"),
            worded=about.worded,
            notes=tuple(about.notes),
            logged=None if about.text is None else Logged(about.text, *(matrices[name] for name in MEASURED)),
        )
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, RosterError):
            raise
        raise RosterError(f"the records in {str(folder)!r} are damaged: {type(error).__name__}: {error}") from None


def find_records(name: str) -> Records:
    """A folder of records, or the recorded data of that name that come with roster."""
    if is_here(Path(name), RecordsManifest):
        return load_records(name)
    if Path(name).exists():
        raise RosterError(f"{name!r} is not a folder of records; `roster lm import` makes one from a log")
    return data.load(name)
