"""Records as a folder: `prompts.jsonl` (with answers), `matrices.npz`, `records.json`. No pickle."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from roster.errors import RosterError
from roster.files import write_whole
from roster.lm import data
from roster.lm.records import Records

FORMAT = "roster-lm-records/1"
_MATRICES = ("score_NM", "cost_NM", "delay_NM", "logprob_NM")


def save_records(records: Records, folder: Path | str) -> Path:
    """Writes the folder."""
    folder = Path(folder)
    lines = []
    for n, prompt in enumerate(records.prompts):
        row: dict[str, Any] = {"prompt": prompt, "dataset": records.datasets[n], "split": records.splits[n]}
        if records.answer_NM is not None:
            row["answers"] = list(records.answer_NM[n])
        lines.append(json.dumps(row, ensure_ascii=False))
    matrices = {name: getattr(records, name) for name in _MATRICES if getattr(records, name) is not None}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **matrices)
    about = {
        "format": FORMAT,
        "name": records.name,
        "models": list(records.models),
        "currency": records.currency,
        "notes": list(records.notes),
        "prompts": len(records),
        "missing": dict(records.missing),
    }
    write_whole(folder / "prompts.jsonl", ("\n".join(lines) + "\n").encode())
    write_whole(folder / "matrices.npz", buffer.getvalue())
    write_whole(folder / "records.json", (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode())
    return folder


def load_records(folder: Path | str) -> Records:
    """The records in a folder.

    Raises:
        RosterError: there are none, or they cannot be read.
    """
    folder = Path(folder)
    path = folder / "records.json"
    if not path.is_file():
        raise RosterError(f"{str(folder)!r} is not a folder of records: there is no records.json in it")
    try:
        about = json.loads(path.read_bytes())
        if about["format"] != FORMAT:
            raise RosterError(f"{str(path)!r} is not of the format {FORMAT!r}")
        rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_bytes().decode().split("\n") if line]
        with np.load(folder / "matrices.npz", allow_pickle=False) as stored:
            matrices = {name: stored[name] for name in stored.files}
        answers = None
        if rows and "answers" in rows[0]:
            answers = np.empty((len(rows), len(about["models"])), dtype=object)
            for n, row in enumerate(rows):
                answers[n] = row["answers"]
        return Records(
            name=about["name"],
            prompts=tuple(row["prompt"] for row in rows),
            models=tuple(about["models"]),
            score_NM=matrices["score_NM"],
            cost_NM=matrices["cost_NM"],
            delay_NM=matrices["delay_NM"],
            datasets=tuple(row["dataset"] for row in rows),
            splits=tuple(row["split"] for row in rows),
            currency=about["currency"],
            answer_NM=answers,
            logprob_NM=matrices.get("logprob_NM"),
            notes=tuple(about["notes"]),
        )
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, RosterError):
            raise
        raise RosterError(f"the records in {str(folder)!r} are damaged: {type(error).__name__}: {error}") from None


def find_records(name: str) -> Records:
    """A folder of records, or the recorded data of that name that come with roster."""
    if (Path(name) / "records.json").is_file():
        return load_records(name)
    if Path(name).exists():
        raise RosterError(f"{name!r} is not a folder of records; `roster lm import` makes one from a log")
    return data.load(name)
