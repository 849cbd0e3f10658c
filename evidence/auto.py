"""`auto` on the real ground, beside what the same folder of adapters gives without it.

    python -m evidence.auto                       # everything that is not there yet; half an hour on 2 idle cores
    python -m evidence.auto --only routing        # who is chosen, without answers
    python -m evidence.auto --only scale          # folders of 256 and 1,500 adapters
    python -m evidence.auto --contenders base auto
    python -m evidence.auto --scale 0.6           # the sizes of the committed answers

Needs `roster smol prepare` and trained adapters. Intermediate results lie in a work folder: a stopped run carries on;
docs/results/auto.json and auto.md are written anew each time from all that is there. Parts that are in auto.json and
not in the work folder stay as they were.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from evidence.auto_answers import CONTENDERS, GROUPS, answer_all, answers
from evidence.auto_ground import Ground, States
from evidence.auto_lost import lost
from evidence.auto_page import page
from evidence.auto_routing import routing, timing
from evidence.auto_scale import BLOCK, library_of, members, scaled
from roster.files import write_whole
from roster.library import Library
from roster.smol import adapters_path
from roster.smol.base import base_path

ROUTING = ("routing-auto", "routing-early")
FOLDERS = {18: True, 54: True, 256: True, 1500: False}
"""Adapters, and whether it is found out which of several for one skill serves: for 1,500 that takes an hour."""
LOST = (54,)
"""Folders whose answers are counted."""
RESULTS = Path(__file__).parents[1] / "docs" / "results"


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=Path, default=adapters_path(), help="trained adapters")
    parser.add_argument("--work", type=Path, default=base_path().parent / "evidence-auto", help="intermediate results")
    parser.add_argument("--only", choices=("routing", "scale", "answers", "page"), help="one part")
    parser.add_argument("--contenders", nargs="*", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--groups", nargs="*", choices=GROUPS, default=list(GROUPS), help="of questions to answer")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of questions")
    parser.add_argument("--layer", choices=("auto", "early"), default="auto", help="blocks that are tried")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(argv)
    console, started = Console(stderr=True), time.monotonic()

    def tick(what: str) -> None:
        console.print(f"{time.monotonic() - started:6.0f} s  {what}", highlight=False)

    ground = Ground(asked.adapters, asked.work, asked.scale, asked.layer)
    if asked.only in (None, "routing"):
        ground.kept(f"routing-{ground.layer}", lambda: routing(ground, States(ground, tick)))
        ground.kept("timing", timing)
    if asked.only in (None, "scale"):
        early = Ground(asked.adapters, asked.work, asked.scale, BLOCK)
        for count, duels in FOLDERS.items():
            ground.kept(f"scale-{count}", partial(scaled, early, States(early, tick), count, duels))
        for count in LOST:
            ground.kept(f"lost-{count}", partial(_lost, early, ground.kept(f"scale-{count}", dict), count))
    if asked.only in (None, "answers"):
        answer_all(ground, asked.contenders, asked.groups, tick)
    earlier = asked.out / "auto.json"
    result = collected(ground, json.loads(earlier.read_text(encoding="utf-8")) if earlier.exists() else {})
    write_whole(asked.out / "auto.json", (json.dumps(result, indent=1) + "\n").encode())
    write_whole(asked.out / "auto.md", page(result).encode())
    tick(f"wrote {asked.out / 'auto.md'}")


def collected(ground: Ground, earlier: dict[str, Any]) -> dict[str, Any]:
    """All figures that are there.

    Args:
        ground: where new ones lie.
        earlier: what was collected before; its parts stay where there is nothing new.
    """
    items = {name: ground.items(name) for name in GROUPS}
    sizes = {name: len(each) for name, each in items.items()}
    base = {name: answers(ground, "base", name) for name in GROUPS}
    shares: dict[str, dict[str, float]] = {}
    if earlier.get("questions") == sizes:
        shares = {name: dict(each) for name, each in earlier.get("answers", {}).items()}
    for contender in CONTENDERS:
        for name in GROUPS:
            said, plain = answers(ground, contender, name), base[name]
            if said is None or (plain is None and name == "nobody"):
                continue
            wanted = plain if name == "nobody" else [item.answer for item in items[name]]
            right = [each == answer for each, answer in zip(said, wanted or [], strict=True)]
            shares.setdefault(contender, {})[name] = sum(right) / len(right)
    scales = {str(count): ground.work / f"scale-{count}.json" for count in FOLDERS}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "skills": ground.skills,
        "questions": sizes,
        "routing": next(
            (ground.kept(each, dict) for each in ROUTING if (ground.work / f"{each}.json").exists()),
            earlier.get("routing"),
        ),
        "timing": ground.kept("timing", dict) if (ground.work / "timing.json").exists() else earlier.get("timing"),
        "scale": {
            count: _folder(ground, path, count) if path.exists() else earlier["scale"][count]
            for count, path in scales.items()
            if path.exists() or count in earlier.get("scale", {})
        },
        "answers": {name: shares[name] for name in CONTENDERS if name in shares},
    }


def _lost(ground: Ground, found: dict[str, Any], count: int) -> dict[str, Any]:
    folder = members(ground, count)
    library = library_of(Library.read(ground.adapters), folder, weights=True)
    who = {name: each["who"] for name, each in found["groups"].items()}
    return lost(ground, library, {each.name: each.kind for each in folder}, who)


def _folder(ground: Ground, path: Path, count: str) -> dict[str, Any]:
    return _with_losses(ground, _without_names(ground.kept(path.stem, dict)), count)


def _with_losses(ground: Ground, found: dict[str, Any], count: str) -> dict[str, Any]:
    """A folder's figures with the points that its answers lose against the trained adapters alone."""
    path, alone = ground.work / f"lost-{count}.json", ground.work / "scale-18.json"
    if not path.exists() or not alone.exists():
        return found
    fewer, trained = ground.kept(path.stem, dict), ground.kept(alone.stem, dict)["groups"]
    gone = {name: 100 * (trained[name]["right"] - found["groups"][name]["right"]) for name in fewer}
    return found | {"lost": {name: gone[name] + each["points"] for name, each in fewer.items()}}


def _without_names(found: dict[str, Any]) -> dict[str, Any]:
    """A folder's figures without who was chosen for every single prompt."""
    groups = {
        name: {key: value for key, value in each.items() if key != "who"} for name, each in found["groups"].items()
    }
    return {**found, "groups": groups}


if __name__ == "__main__":
    main()
