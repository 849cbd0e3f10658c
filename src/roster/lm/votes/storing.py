"""Votes as a folder: `roster.json` (models, notes) and `votes.jsonl`; written whole or not at all (`roster.saving`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from roster.errors import RosterError
from roster.lm.text import TextRule
from roster.lm.votes.ballots import Votes
from roster.saving import MANIFEST, Manifest, read_manifest, recover, writing

_VOTES = "votes.jsonl"


class VotesManifest(Manifest):
    """`roster.json` of a folder of votes; `votes` is for people."""

    what: ClassVar[str] = "a folder of votes"

    kind: Literal["lm-votes"] = "lm-votes"
    name: str
    models: list[str]
    text: TextRule
    notes: list[str]
    votes: int


def save_votes(votes: Votes, folder: Path | str) -> Path:
    """Writes the folder, in the place of what was there.

    Raises:
        RosterError: it cannot be written; what was there is as it was.
    """
    manifest = VotesManifest(
        name=votes.name, models=list(votes.models), text=votes.text, notes=list(votes.notes), votes=len(votes)
    )
    with writing(folder, (MANIFEST, _VOTES)) as new:
        with open(new / _VOTES, "w", encoding="utf-8", newline="\n") as file:
            for v, prompt in enumerate(votes.prompts):
                pair = votes.pair_V2[v].tolist()
                row = {"prompt": prompt, "pair": pair, "share": float(votes.share_V[v]), "split": votes.splits[v]}
                file.write(json.dumps(row) + "\n")
        (new / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return Path(folder)


def are_here(folder: Path | str) -> bool:
    """Whether a folder holds votes."""
    recover(folder)
    return (Path(folder) / _VOTES).is_file()


def load_votes(folder: Path | str) -> Votes:
    """The votes in a folder.

    Raises:
        RosterError: there are none, or they cannot be read.
    """
    folder = Path(folder)
    about = read_manifest(folder, VotesManifest)
    try:
        with open(folder / _VOTES, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return Votes(
            name=about.name,
            prompts=tuple(row["prompt"] for row in rows),
            models=tuple(about.models),
            pair_V2=np.array([row["pair"] for row in rows], dtype=np.int64).reshape(-1, 2),
            share_V=np.array([row["share"] for row in rows], dtype=float),
            splits=tuple(row["split"] for row in rows),
            text=about.text,
            notes=tuple(about.notes),
        )
    except RosterError:
        raise
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise RosterError(f"the votes in {str(folder)!r} are damaged: {type(error).__name__}: {error}") from None
