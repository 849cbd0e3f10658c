"""What a feed-forward mixture costs beyond its matmuls: roster beside transformers' back ends, in one process.

    python benchmarks/moe.py                   # every row, several minutes
    python benchmarks/moe.py --rows "8 experts"

Seconds are the thread's own (user and system time), so that other programs on the machine count as little as they can.
SwiGLU experts of width 1024 at model width 512, random weights (the same for every contender) and random top-k
choices, one thread. Every contender runs in turn, round after round, and its median is divided by the floor's. That is
done in several fresh processes, as the places in memory that a process happens to get move all its figures by a few
percent; the median over the processes counts, lowest and highest stand beside it. Forward + backward makes gradients of
the tokens, of the combine weights and of all expert weights; they are dropped between rounds, as an optimiser's
`zero_grad` does.

- floor: the same matmuls and activation on rows that are already grouped by expert, one expert after the other,
  each expert's matrices a parameter of its own, in plain torch with autograd. No routing, no gather, no combine.
- bare: the floor's matmuls alone, written by hand into memory that is already there. It says how much of the floor is
  arithmetic.

roster keeps the memory of dropped gradients for the next step (`roster.dispatch.memory`); the others leave that to the
system's allocator, as they do in use.

Results go to benchmarks/results/moe.json with versions, machine and load.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from roster import Route
from roster.dispatch import measured, use
from roster.experts import SwiGLU

RESULTS = Path(__file__).parent / "results" / "moe.json"
WIDTH, HIDDEN = 512, 1024
EAGER_BACKWARD = 8  # experts; with more, `eager` makes so many full-size gradients that a run takes tens of seconds
BATCHED_PAIRS = 512  # `batched_mm` gathers the matrices of every pair: 6 MB each in float32


@dataclass
class Case:
    """One layer and its input; everything that contenders share."""

    experts: int
    k: int
    tokens: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.layer = SwiGLU(self.experts, WIDTH, HIDDEN).to(self.dtype)
        self.x_TD = torch.randn(self.tokens, WIDTH, dtype=self.dtype, requires_grad=True)
        self.chosen_TK = torch.rand(self.tokens, self.experts).topk(self.k).indices
        self.weight_TK = torch.rand(self.tokens, self.k).softmax(-1).to(self.dtype).requires_grad_()

    def roster(self, backend: str | None = None) -> Contender:
        """The layer behind a route that is made anew each time, from the choices."""

        def run() -> Tensor:
            route = Route.slots(self.chosen_TK, self.weight_TK, self.experts, full=True)
            return route.through(self.layer, self.x_TD)

        def on(name: str) -> Tensor:
            with use(name):
                return run()

        leaves = [self.x_TD, self.weight_TK, *self.layer.parameters()]
        return Contender(run if backend is None else lambda: on(backend), leaves)

    def transformers(self, backend: str) -> Contender:
        """Qwen3-MoE's experts on the same weights."""
        config = Qwen3MoeConfig(
            hidden_size=WIDTH, moe_intermediate_size=HIDDEN, num_experts=self.experts, experts_implementation=backend
        )
        experts = Qwen3MoeExperts(config).to(self.dtype)
        with torch.no_grad():
            gate_up_E2FD = torch.cat([self.layer.gate_EDF, self.layer.up_EDF], 2).transpose(1, 2)
            experts.gate_up_proj.copy_(gate_up_E2FD)
            experts.down_proj.copy_(self.layer.down_EFD.transpose(1, 2))
        leaves = [self.x_TD, self.weight_TK, *experts.parameters()]
        return Contender(lambda: experts(self.x_TD, self.chosen_TK, self.weight_TK), leaves)

    def groups(self) -> list[Tensor]:
        """Rows of each expert."""
        route = Route.slots(self.chosen_TK, self.weight_TK, self.experts)
        return list(route.dispatch(self.x_TD).detach().split(route.counts_E.tolist()))

    def floor(self) -> Contender:
        """See the top of this file."""
        rows = [each.clone().requires_grad_() for each in self.groups()]
        stacks = (self.layer.gate_EDF, self.layer.up_EDF, self.layer.down_EFD)
        owned = [tuple(m.detach().clone().requires_grad_() for m in each) for each in zip(*stacks, strict=True)]

        def run() -> list[Tensor]:
            pairs = zip(rows, owned, strict=True)
            return [(F.silu(x @ gate) * (x @ up)) @ down for x, (gate, up, down) in pairs]

        return Contender(run, [*rows, *(each for matrices in owned for each in matrices)])

    def bare(self) -> Contender:
        """See the top of this file."""
        rows = self.groups()
        stacks = tuple(each.detach() for each in (self.layer.gate_EDF, self.layer.up_EDF, self.layer.down_EFD))
        most = max(map(len, rows))
        wide = [self.x_TD.new_empty(most, HIDDEN) for _ in range(3)]
        narrow = self.x_TD.detach().new_empty(most, WIDTH)
        grads = [torch.zeros_like(each) for each in stacks]

        def forward() -> None:
            for x, gate, up, down in zip(rows, *stacks, strict=True):
                n = len(x)
                torch.mm(x, gate, out=wide[0][:n])
                torch.mm(x, up, out=wide[1][:n])
                torch.mm(wide[0][:n], down, out=narrow[:n])

        def backward(_: None) -> None:
            for x, gate, up, down, *into in zip(rows, *stacks, *grads, strict=True):
                n = len(x)
                torch.mm(x, down.T, out=wide[2][:n])
                torch.mm(wide[0][:n].T, x, out=into[2])
                torch.mm(x.T, wide[2][:n], out=into[0])
                torch.mm(x.T, wide[1][:n], out=into[1])
                torch.mm(wide[2][:n], gate.T, out=narrow[:n])
                torch.mm(wide[1][:n], up.T, out=narrow[:n])

        return Contender(forward, [], backward)


class Contender:
    """Something to be timed.

    Args:
        forward: gives one output or several.
        leaves: what gets a gradient.
        backward: what to do with the output; by default autograd's.
    """

    def __init__(self, forward: Callable, leaves: list[Tensor], backward: Callable | None = None):
        self.forward, self.leaves, self.backward = forward, leaves, backward
        self.grads: list[Tensor] | None = None

    def infer(self) -> None:
        """Forward only."""
        with torch.no_grad():
            self.forward()

    def train(self) -> None:
        """Forward and backward."""
        if self.backward is not None:
            with torch.no_grad():
                return self.backward(self.forward())
        out = self.forward()
        outs = out if isinstance(out, list) else [out]
        if self.grads is None:  # of a loss; its making is not timed after the first turn, which only warms up
            torch.manual_seed(1)
            self.grads = [torch.randn_like(each) for each in outs]
        torch.autograd.backward(outs, self.grads)
        for leaf in self.leaves:
            leaf.grad = None
        return None


def race(contenders: dict[str, Callable[[], None]], rounds: int, once: frozenset[str] = frozenset()) -> dict:
    """Seconds of each contender: median and lower quartile. Those in `once`, which are slow, run once."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-1, rounds):
        for name, run in contenders.items():
            if name in once and turn >= 0:
                continue
            start = time.thread_time()
            run()
            if turn >= 0 or name in once:  # else the first turn warms up, and lets roster choose its back end
                seconds[name].append(time.thread_time() - start)
    return {
        name: {"median": statistics.median(each), "quartile": sorted(each)[len(each) // 4], "runs": len(each)}
        for name, each in seconds.items()
    }


def row(case: Case, rounds: int) -> dict[str, dict]:
    """Forward, and forward + backward, of every contender that fits into memory."""
    contenders = {
        "floor": case.floor(),
        "bare": case.bare(),
        "roster": case.roster(),
        "transformers eager": case.transformers("eager"),
        "transformers grouped_mm": case.transformers("grouped_mm"),
    }
    if case.tokens * case.k <= BATCHED_PAIRS and case.dtype == torch.float32:
        contenders["transformers batched_mm"] = case.transformers("batched_mm")
    once = frozenset({"transformers batched_mm"})
    forward = {name: each.infer for name, each in contenders.items()}
    if case.experts > EAGER_BACKWARD:
        contenders.pop("transformers eager")
    both = {name: each.train for name, each in contenders.items()}
    return {"forward": race(forward, rounds, once), "forward + backward": race(both, rounds, once)}


ROWS: dict[str, Callable[[], Case]] = {
    "64 experts, top-8, 1,024 tokens, f32": partial(Case, 64, 8, 1024, torch.float32),
    "64 experts, top-8, 1,024 tokens, bf16": partial(Case, 64, 8, 1024, torch.bfloat16),
    "8 experts, top-2, 1,024 tokens, f32": partial(Case, 8, 2, 1024, torch.float32),
    "64 experts, top-8, 64 tokens, f32": partial(Case, 64, 8, 64, torch.float32),
}


def measure(name: str, rounds: int) -> dict[str, dict]:
    """One process's share of a row, and which back ends roster chose."""
    torch.set_num_threads(1)
    result = row(ROWS[name](), rounds)
    kinds = {"train" if key[-1] else "infer": f"{key[0]}: {chosen}" for key, chosen in measured().items()}
    return result | {"chosen": kinds}


def over(processes: list[dict]) -> dict[str, dict]:
    """Each contender relative to the floor of its own process: median, lowest and highest over the processes."""
    together = {"chosen": [each.pop("chosen") for each in processes]}
    for work, contenders in processes[0].items():
        together[work] = {}
        for name in contenders:
            relative = [each[work][name]["median"] / each[work]["floor"]["median"] for each in processes]
            seconds = statistics.median(each[work][name]["median"] for each in processes)
            together[work][name] = {
                "relative": statistics.median(relative),
                "lowest": min(relative),
                "highest": max(relative),
                "seconds": seconds,
            }
    return together


def show(results: dict[str, dict]) -> None:
    """A table, relative to the floor."""
    table = Table(title="relative to the floor = 1.00")
    for column in ("row", "what", "contender", "median", "lowest", "highest"):
        table.add_column(column, justify="left" if column in ("row", "what", "contender") else "right")
    for name, works in results.items():
        for work in ("forward", "forward + backward"):
            for contender, each in works[work].items():
                label = f"{contender} ({each['seconds'] * 1e3:.0f} ms)"
                table.add_row(name, work, label, *(f"{each[kind]:.3f}" for kind in ("relative", "lowest", "highest")))
    Console(width=140).print(table)


def about() -> dict:
    """What figures depend on."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores, 1 thread",
        "versions": {package: version(package) for package in ("torch", "transformers")},
        "load": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=7, help="in each process")
    parser.add_argument("--processes", type=int, default=7)
    parser.add_argument("--no-write", action="store_true", help="do not update the results file")
    arguments = parser.parse_args()
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    for name in ROWS:
        if arguments.rows not in name:
            continue
        before = about()
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            runs = pool.map(measure, *zip(*[(name, arguments.rounds)] * arguments.processes, strict=True))
            processes = list(track(runs, total=arguments.processes, description=name))
        stored["rows"][name] = over(processes) | {"about": before}
        show({name: stored["rows"][name]})
        if not arguments.no_write:
            RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
