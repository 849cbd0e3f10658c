"""Twenty arena runs in one process, in two, and by two workers of a local Ray cluster.

    python benchmarks/workers.py                 # twelve minutes of two free cores
    python benchmarks/workers.py --steps 30 --only "two processes"

Every contender makes the same runs (two recipes, ten seeds) in a folder of its own, from its first process to the last
file; what Ray and fresh processes take to start counts. The losses of all are compared: they must be equal. Needs two
cores that nothing else uses; the load is recorded. Results go to benchmarks/results/workers.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from pathlib import Path

OUT = Path(__file__).parent / "results" / "workers.json"
RECIPES = ["dense-active", "switch-transformer"]
SEEDS = 10


def seconds(workers, terms):
    from roster.arena.moe.compare import compare

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = compare(RECIPES, terms, SEEDS, Path(folder), workers=workers)
        return time.perf_counter() - began, [row["validation"] for row in result["recipes"]]


def main():
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15: beside other work its workers would stand back
    import ray
    import torch

    from roster.arena.moe.data import corpus
    from roster.arena.moe.pretrain import Terms
    from roster.workers import Workers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=Terms.steps, help="of each run; as the arena's own by default")
    parser.add_argument("--only", nargs="+", help="contenders beside one process, by name")
    given = parser.parse_args()
    terms = Terms(steps=given.steps)
    corpus()  # read once by this process, and once by each worker, inside its time
    ways = {"one process": Workers(), "two processes": Workers(2), "Ray, two workers": Workers(ray="local")}
    found, losses = {}, {}
    if given.only:
        ways = {name: each for name, each in ways.items() if name in ("one process", *given.only)}
    for name, workers in ways.items():
        load = os.getloadavg()[0]
        found[name], losses[name] = seconds(workers, terms)
        found[f"load before {name}"] = load
        print(name, found[name], flush=True)
    first = losses["one process"]
    found["equal losses"] = all(each == first for each in losses.values())
    for name in ways:
        found[f"{name}: times one process"] = found["one process"] / found[name]
    about = {
        "runs": len(RECIPES) * SEEDS,
        "steps": given.steps,
        "date": datetime.date.today().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "versions": {each.__name__: each.__version__ for each in (torch, ray)},
    }
    OUT.write_text(json.dumps({**found, "about": about}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
