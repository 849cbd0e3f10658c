"""Who may learn from what: removing prompts that occur on both sides, random splits, held-out data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from roster.errors import RosterError, nearest
from roster.lm.records import SPLITS, Records


def same(prompt: str) -> str:
    """What two prompts share when they are the same question: the text without case and spacing."""
    return " ".join(prompt.casefold().split())


def deduplicate(records: Records) -> Records:
    """Each question once: in the split closest to the test, so that no router has seen what it is judged on.

    A repeat within a split goes too. What was removed is added to the notes.
    """
    order = sorted(range(len(records)), key=lambda n: (-SPLITS.index(records.splits[n]), n))
    first: dict[str, int] = {}
    leaked = repeated = 0
    for n in order:
        kept = first.setdefault(same(records.prompts[n]), n)
        if kept != n:
            leaked += records.splits[kept] != records.splits[n]
            repeated += records.splits[kept] == records.splits[n]
    left = records.rows(np.array(sorted(first.values()), dtype=int))
    notes = list(records.notes)
    if leaked:
        notes.append(f"{leaked} prompts were removed because they also occur in a split nearer to the test")
    if repeated:
        notes.append(f"{repeated} repeated prompts were removed")
    return replace(left, notes=tuple(notes))


def split_at_random(records: Records, shares: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0) -> Records:
    """New splits, drawn within each data set so that all three have the same mix.

    Args:
        records: whose splits are forgotten.
        shares: of train, validation and test.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    splits = np.empty(len(records), dtype=object)
    for name in sorted(set(records.datasets)):
        at = rng.permutation([n for n, each in enumerate(records.datasets) if each == name])
        edges = np.round(np.cumsum(shares)[:-1] * len(at)).astype(int)
        for split, part in zip(SPLITS, np.split(at, edges), strict=True):
            splits[part] = split
    return replace(records, splits=tuple(splits))


def training(records: Records) -> Records:
    """Training and validation prompts."""
    return records.rows(np.array([split != "test" for split in records.splits]))


def carve_validation(records: Records, share: float = 0.2, seed: int = 0) -> Records:
    """Moves a share of the training prompts to validation; what has validation prompts is left as it is."""
    if "validation" in records.splits:
        return records
    at = np.array([n for n, split in enumerate(records.splits) if split == "train"], dtype=int)
    moved = set(np.random.default_rng(seed).permutation(at)[: round(share * len(at))].tolist())
    splits = tuple("validation" if n in moved else split for n, split in enumerate(records.splits))
    return replace(records, splits=splits)


def hold_out(records: Records, dataset: str) -> Records:
    """One data set becomes the whole test, everything else is for training: what a router does with the unexpected."""
    if dataset not in records.datasets:
        raise RosterError(
            f"records {records.name!r} have no data set {dataset!r}: {nearest(dataset, records.datasets)}"
        )
    splits = tuple("test" if each == dataset else "train" for each in records.datasets)
    return replace(records, splits=splits)
