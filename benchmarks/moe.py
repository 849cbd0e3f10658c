"""What a feed-forward mixture costs beyond its matmuls: roster beside transformers' back ends, in one process.

    python benchmarks/moe.py                   # every row, several minutes
    python benchmarks/moe.py --rows "8 experts"

Seconds are the thread's own (user and system time), so that other programs on the machine count as little as they can.
SwiGLU experts of width 1024 at model width 512, random weights (the same for every contender) and random top-k
choices, one thread. Every contender runs in turn, round after round; figures are medians over the rounds, divided by
the floor's. Forward + backward makes gradients of the tokens, of the combine weights and of all expert weights; they
are dropped between rounds, as an optimiser's `zero_grad` does.

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
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from roster import MoE, Route, Router
from roster.context import Context
from roster.dispatch import forget, measured, use
from roster.experts import SwiGLU
from roster.score import Linear
from roster.select import TopK

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
    for turn in track(range(-1, rounds), description="rounds", transient=True):
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
    return {"forward": race(forward, rounds), "forward + backward": race(both, rounds, once)}


def overhead_row(rounds: int) -> dict[str, dict]:
    """The layer with its router at 8,192 tokens, and the experts alone on rows that are already grouped."""
    case = Case(64, 8, 8192, torch.float32)
    moe = MoE(Router(Linear(WIDTH, case.experts), TopK(case.k)), case.layer)
    x_BSD = case.x_TD.detach()[None]
    with torch.no_grad():
        route = moe.router(x_BSD[0], Context.of(x_BSD))
        rows_RD, counts_E = route.dispatch(x_BSD[0]), route.counts_E

    def layer() -> None:
        with torch.no_grad():
            moe(x_BSD)

    def experts() -> None:
        with torch.no_grad():
            case.layer(rows_RD, counts_E)

    return {"forward": race({"floor": experts, "roster, router included": layer}, rounds)}


ROWS: dict[str, Callable[[int], dict]] = {
    "64 experts, top-8, 1,024 tokens, f32": lambda n: row(Case(64, 8, 1024, torch.float32), n),
    "64 experts, top-8, 1,024 tokens, bf16": lambda n: row(Case(64, 8, 1024, torch.bfloat16), n),
    "8 experts, top-2, 1,024 tokens, f32": lambda n: row(Case(8, 2, 1024, torch.float32), 2 * n),
    "64 experts, top-8, 64 tokens, f32": lambda n: row(Case(64, 8, 64, torch.float32), 2 * n),
    "router overhead: 64 experts, top-8, 8,192 tokens, f32": lambda n: overhead_row(n // 2),
}


def show(results: dict[str, dict]) -> None:
    """A table, relative to the floor."""
    table = Table(title="relative to the floor = 1.00")
    for column in ("row", "what", "contender", "median", "lower quartile"):
        table.add_column(column, justify="right" if column in ("median", "lower quartile") else "left")
    for name, works in results.items():
        for work, figures in works.items():
            if work == "about":
                continue
            floor = figures["floor"]
            for contender, each in figures.items():
                label = f"{contender} ({each['median'] * 1e3:.0f} ms)"
                relative = [f"{each[kind] / floor[kind]:.3f}" for kind in ("median", "quartile")]
                table.add_row(name, work, label, *relative)
    Console(width=140).print(table)


def store(stored: dict) -> None:
    """Writes the results, with what they depend on."""
    stored["about"] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores, 1 thread",
        "versions": {package: version(package) for package in ("torch", "transformers")},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--no-write", action="store_true", help="do not update the results file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    for name, run in ROWS.items():
        if arguments.rows not in name:
            continue
        before = os.getloadavg()[0]
        forget()
        result = run(arguments.rounds)
        gc.collect()
        result["about"] = {
            "load": [round(before, 2), round(os.getloadavg()[0], 2)],
            "chosen": sorted(
                {f"{key[0]}, {'train' if key[-1] else 'infer'}: {name}" for key, name in measured().items()}
            ),
        }
        stored["rows"][name] = result
        show({name: result})
        if not arguments.no_write:
            store(stored)


if __name__ == "__main__":
    main()
