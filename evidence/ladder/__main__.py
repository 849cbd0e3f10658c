"""Runs the rungs that are missing and writes docs/results/lm-ladder.{json,md}.

    python -m evidence.ladder                         everything
    python -m evidence.ladder --only routellm-mmlu    one collection
    python -m evidence.ladder --rung irt              one rung, and whatever the page lacks otherwise stays out

What a rung gave per prompt is kept under --work: a run that broke off goes on where it stopped. Rungs on MiniLM need
the extra `minilm` and are left out without it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from evidence.ladder.page import page
from evidence.ladder.protocol import compare, complete, judge
from evidence.ladder.rungs import RUNGS, Rung
from evidence.ladder.vectors import vectors
from roster.errors import RosterError
from roster.files import write_whole
from roster.lm import data
from roster.lm.records import Matrix, Records

COLLECTIONS = ("llmrouter", "zeroeval", "routellm-mmlu", "routellm-gsm8k")


def kept(rung: Rung, records: Records, work: Path, run: bool) -> tuple[Matrix, Matrix] | None:
    """(score, cost) of a rung on a collection, from the disk or measured now."""
    path = work / records.name / f"{rung.slug}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            return stored["score_SN"], stored["cost_SN"]
    if not run:
        return None
    start = time.monotonic()

    def make(learn: Records) -> Any:
        return rung.make(lambda name: vectors(name, records.prompts, learn.prompts, work / "vectors"))

    try:
        score_SN, cost_SN = judge(make, records, lambda what: print(f"{records.name}, {rung.slug}: {what}", flush=True))
    except RosterError as error:
        if "minilm" not in str(error):
            raise
        print(f"{records.name}, {rung.slug}: left out, {error}", flush=True)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path.with_suffix(".partial.npz"), score_SN=score_SN, cost_SN=cost_SN)
    path.with_suffix(".partial.npz").rename(path)
    print(f"{records.name}, {rung.slug}: {score_SN[0].mean():.4f}, {time.monotonic() - start:.0f} s", flush=True)
    return score_SN, cost_SN


def collection(name: str, work: Path, only: list[str]) -> dict[str, Any] | None:
    """All rungs on one collection; None while the look-up is missing."""
    records = complete(data.load(name), "collection")
    found = {}
    for rung in RUNGS:
        if not rung.collections or name in rung.collections:
            run = not only or rung.slug in only or rung.slug == "lookup"
            if (pair := kept(rung, records, work, run)) is not None:
                found[rung.slug] = pair
    best_N = records.score_NM.max(1)
    about = {
        "prompts": len(records),
        "models": len(records.models),
        "datasets": len(set(records.datasets)),
        "currency": records.currency,
        "random": {"quality": records.score_NM.mean(), "cost": records.cost_NM.mean()},
        "oracle": best_N.mean(),
        "notes": list(records.notes),
    }
    return {"about": about, **compare(found, records, [r.slug for r in RUNGS if not r.label and r.slug != "mix"])}


def main() -> None:
    """See the module."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COLLECTIONS, default=list(COLLECTIONS))
    parser.add_argument("--rung", nargs="+", choices=[rung.slug for rung in RUNGS], default=[])
    parser.add_argument("--work", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stored = arguments.out / "lm-ladder.json"
    content = json.loads(stored.read_text()) if stored.exists() else {"results": {}}
    for name in arguments.only:
        content["results"][name] = collection(name, arguments.work, arguments.rung)
        content["about"] = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
            "versions": ", ".join(f"{each} {version(each)}" for each in ("numpy", "scikit-learn", "torch")),
        }
        write_whole(stored, (json.dumps(content, indent=1) + "\n").encode())
        write_whole(arguments.out / "lm-ladder.md", page(content).encode())


if __name__ == "__main__":
    main()
