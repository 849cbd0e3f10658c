"""What routers in float32 cost on blocks in bfloat16: the forward of a layer beside the same with a router in bfloat16.

    python benchmarks/router_precision.py     # a minute or two

roster keeps scores, biases and routers of feed-forward mixtures in float32 whatever the blocks compute in, because near
ties go to other experts otherwise. Here a switch layer (linear scores, the best expert) of SwiGLU experts of width 1024
at model width 512, in bfloat16, runs once so and once with a router that scores in bfloat16, on the same weights and
tokens, one thread, in turn, round after round. Counted are the thread's own seconds; beside the medians stands the
median over the rounds of float32 divided by bfloat16, with its quartiles. "moved" is the share of the tokens that the
router in bfloat16 sends to another expert.

Results go to benchmarks/results/router_precision.json with versions, machine and load.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from moe import HIDDEN, WIDTH, about
from roster.context import Context
from roster.experts import SwiGLU
from roster.moe.layer import MoE
from roster.router import Router
from roster.score import Linear
from roster.select import TopK

RESULTS = Path(__file__).parent / "results" / "router_precision.json"
CASES = tuple((experts, tokens) for experts in (8, 64) for tokens in (1, 4096))


class HalfRouter(Router):
    """A router that becomes what the model becomes, and scores in that type."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HalfRouter:
        nn.Module._apply(self, fn, recurse)
        return self

    def _scores(self, x_TD: Tensor, context: Context) -> Tensor:
        return self.score(x_TD, context)


@torch.no_grad()
def row(experts: int, tokens: int, rounds: int) -> dict:
    """Seconds of both layers, and how far their choices differ."""
    torch.manual_seed(0)
    full = MoE(Router(Linear(WIDTH, experts), TopK(1, "all")), SwiGLU(experts, WIDTH, HIDDEN)).to(torch.bfloat16)
    half = MoE(HalfRouter(copy.deepcopy(full.router.score), TopK(1, "all")), full.experts).to(torch.bfloat16)
    assert {p.dtype for p in full.router.parameters()} == {torch.float32}
    assert {p.dtype for p in half.router.parameters()} == {torch.bfloat16}
    x_BSD = torch.randn(1, tokens, WIDTH, dtype=torch.bfloat16)
    chosen = [each.router(x_BSD[0], Context.of(x_BSD)).expert_R for each in (full, half)]
    calls = max(1, 256 // tokens)  # of one token, so many at once that the clock's steps do not count
    taken: list[list[float]] = [[], []]
    for turn in range(-2, rounds):  # two rounds warm up
        for layer, into in zip((full, half), taken, strict=True):
            start = time.thread_time()
            for _ in range(calls):
                layer(x_BSD)
            if turn >= 0:
                into.append((time.thread_time() - start) / calls)
    ratios = sorted(a / b for a, b in zip(*taken, strict=True))
    return {
        "float32": statistics.median(taken[0]),
        "bfloat16": statistics.median(taken[1]),
        "ratio": [ratios[rounds // 4], statistics.median(ratios), ratios[-1 - rounds // 4]],
        "moved": float((chosen[0] != chosen[1]).float().mean()),
    }


def show(rows: dict[str, dict]) -> None:
    """One line a case."""
    table = Table(title="forward of one bfloat16 layer, router in float32 and in bfloat16")
    for column in ("layer", "float32, ms", "bfloat16, ms", "ratio (quartiles)", "moved"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for name, each in rows.items():
        ratio = "{1:.3f} ({0:.3f}, {2:.3f})".format(*each["ratio"])
        table.add_row(
            name, f"{each['float32'] * 1e3:.3f}", f"{each['bfloat16'] * 1e3:.3f}", ratio, f"{each['moved']:.1%}"
        )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--no-write", action="store_true", help="do not update the results file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before = about()
    rows = {f"{e} experts, {t:,} tokens": row(e, t, arguments.rounds) for e, t in CASES}
    if not arguments.no_write:
        RESULTS.write_text(json.dumps({"rows": rows, "about": before | {"rounds": arguments.rounds}}, indent=1) + "\n")
    show(rows)


if __name__ == "__main__":
    main()
