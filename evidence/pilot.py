"""How far two runs of one method lie apart on the language ground: the pilot by which its terms are chosen.

python -m evidence.pilot                    # null pairs that are missing, and the table
python -m evidence.pilot --only "mean of"   # those of the ways whose name holds these words
python -m evidence.pilot --table            # the table from the pairs there are

A pair is plain top-2 twice on one ground, with other luck. Nothing here compares methods, and the seeds are used by no
check. Every run is a line of evidence/pilot.jsonl as soon as it ends.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import stdev

from evidence.grounds.language import SHORT, Calm, loss_of
from evidence.protocol.check import APART, Contender, Draw

FILE = Path(__file__).with_suffix(".jsonl")
SEEDS = range(900, 903)
LONGER = replace(SHORT, steps=900)
WAYS: dict[str, Contender] = {
    "as before: rate 0.003 to a tenth, all drawn by luck": loss_of("gshard-top2"),
    "alike, rate 0.003 to 0": loss_of("gshard-top2", calm=Calm(rate=3e-3)),
    "alike, rate 0.001 to 0": loss_of("gshard-top2", calm=Calm()),
    "alike, rate 0.001 to 0, mean of the weights": loss_of("gshard-top2", calm=Calm(average=0.97)),
    "alike, rate 0.001 to 0, three times the steps": loss_of("gshard-top2", terms=LONGER, calm=Calm()),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--only", default="", metavar="WORDS", help="ways whose name holds these words")
    asked = parser.parse_args(arguments)
    if not asked.table:
        run(FILE, {way: contender for way, contender in WAYS.items() if asked.only in way})
    print("\n".join(table(read(FILE))))


def read(path: Path) -> list[dict[str, float | int | str]]:
    """The runs there are; a line that was cut off is left out."""
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(row) for row in rows if row.endswith("\n")]


def run(path: Path, ways: Mapping[str, Contender] = WAYS, seeds: Sequence[int] = SEEDS) -> None:
    """Every run that is missing, way by way."""
    import torch

    torch.set_num_threads(1)
    done = {(line["way"], line["ground"], line["luck"]) for line in read(path)}
    for way, contender in ways.items():
        for seed in seeds:
            for luck in (seed, seed + APART):
                if (way, seed, luck) in done:
                    continue
                start = time.process_time()
                value = contender(Draw(seed, luck))
                seconds = round(time.process_time() - start, 1)
                line = {"way": way, "ground": seed, "luck": luck, "value": value, "seconds": seconds}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def table(lines: Sequence[Mapping[str, float | int | str]]) -> list[str]:
    """Markdown: pairs, mean loss, deviation of the paired differences, seconds of a run."""
    found = ["| way | pairs | loss | deviation of a pair | s a run |", "|---|---|---|---|---|"]
    for way in dict.fromkeys(str(line["way"]) for line in lines):
        mine = [line for line in lines if line["way"] == way]
        at = {(line["ground"], line["luck"]): float(line["value"]) for line in mine}
        apart = [
            value - at[ground, int(ground) + APART]
            for (ground, luck), value in at.items()
            if luck == ground and (ground, int(ground) + APART) in at
        ]
        loss, seconds = (sum(float(line[key]) for line in mine) / len(mine) for key in ("value", "seconds"))
        spread = f"{stdev(apart):.3f}" if len(apart) > 1 else "–"
        found.append(f"| {way} | {len(apart)} | {loss:.3f} | {spread} | {seconds:.0f} |")
    return found


if __name__ == "__main__":
    main()
