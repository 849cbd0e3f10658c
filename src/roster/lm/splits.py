"""Who may learn from what: removing prompts that occur on both sides, random splits, held-out data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError, nearest
from roster.lm.records import SPLITS, Logged, Records


def same(prompt: str) -> str:
    """What two prompts share when they are the same question: the text without case and spacing."""
    return " ".join(prompt.casefold().split())


def deduplicate(records: Records) -> Records:
    """Each question once: in the split closest to the test, so that no router has seen what it is judged on.

    Rows of one question in that split merge: numbers are averaged, of answers and data sets the first counts. What only
    a farther split has measured fills their gaps and is gone from there. What was removed is added to the notes.
    """
    groups: dict[str, list[int]] = {}
    for n, prompt in enumerate(records.prompts):
        groups.setdefault(same(prompt), []).append(n)
    near = [_nearest_to_test(records, rows) for rows in groups.values()]
    order = np.argsort([rows[0] for rows in near], kind="stable")
    kept = [near[g] for g in order]
    everywhere = [sorted(rows, key=lambda n: -SPLITS.index(records.splits[n])) for rows in groups.values()]
    left = records.rows(np.array([rows[0] for rows in kept], dtype=int))
    repeated = sum(len(rows) - 1 for rows in near)
    leaked = len(records) - len(groups) - repeated
    if not repeated + leaked:
        return left
    merged: dict[str, Any] = {name: matrix.copy() for name, matrix in left.matrices().items()}
    for at, g in enumerate(order):
        if len(everywhere[g]) > 1:
            for name, matrix in records.matrices().items():
                merged[name][at] = _merged(matrix, everywhere[g], records.splits)
    if records.logged is not None:
        merged["logged"] = _merged_log(records.logged, [everywhere[g] for g in order], records.splits)
    datasets = tuple(next((records.datasets[n] for n in everywhere[g] if records.datasets[n]), "") for g in order)
    notes = list(records.notes)
    if leaked:
        notes.append(f"{leaked} prompts were removed because they also occur in a split nearer to the test")
    if repeated:
        notes.append(f"{repeated} repeated prompts were merged with their first")
    return replace(left, datasets=datasets, notes=tuple(notes), **merged)


def _nearest_to_test(records: Records, rows: list[int]) -> list[int]:
    nearest_split = max((records.splits[n] for n in rows), key=SPLITS.index)
    return [n for n in rows if records.splits[n] == nearest_split]


def _merged_log(logged: Logged, rows: list[list[int]], splits: Sequence[str]) -> Logged:
    """As the figures merge, but calls add up and propensities have the harmonic mean: a weight is their inverse."""

    def merged(matrix: NDArray[Any], mean: Callable[[Sequence[Any]], Any] = np.mean) -> NDArray[Any]:
        return np.stack([_merged(matrix, each, splits, mean) for each in rows])

    return replace(
        logged,
        calls_NM=merged(logged.calls_NM, np.sum),
        propensity_NM=1 / merged(1 / logged.propensity_NM),
        written_NM=merged(logged.written_NM),
    )


def _merged(
    matrix: NDArray[Any], rows: list[int], splits: Sequence[str], mean: Callable[[Sequence[Any]], Any] = np.mean
) -> NDArray[Any]:
    """One row for several, from test to train: each cell of the first split that has it."""
    cell_M: NDArray[Any] = matrix[rows[0]].copy()
    for m in range(len(cell_M)):
        known = [n for n in rows if not _missing(matrix[n, m])]
        alike = [matrix[n, m] for n in known if splits[n] == splits[known[0]]]
        if alike:
            cell_M[m] = alike[0] if matrix.dtype == object else mean(alike)
    return cell_M


def _missing(cell: Any) -> bool:
    return cell is None or bool(cell != cell)


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
