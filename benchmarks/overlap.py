"""FSMoE's model of overlap against two processes: times of the parts are measured, times of the whole are predicted.

    python benchmarks/overlap.py [--world 2] [--turns 9]

Each process measures torch's all-to-all and the experts at several sizes, fits a line through each, and has
`roster.place.overlap` predict the forward pass of a mixture whose rows travel in 1, 2, 4 and 8 chunks; then it runs it.
Medians; with gloo, and threads of one machine, links and processors are the same thing, so overlap gains nothing where
there are no more cores than processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time

import torch
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import roster.dispatch
from roster.dispatch.exchange import pipelined
from roster.experts import SwiGLU
from roster.place.overlap import DEGREES, Layer, Line, Lines, degree_of, layer_time
from roster.route import Route

E, D, F, T, K = 8, 256, 512, 2048, 2


def median(call, turns):
    """Seconds of a call that all processes make together; the slowest of them counts."""
    seconds = []
    for _ in range(turns + 1):
        distributed.barrier()
        start = time.perf_counter()
        call()
        taken = torch.tensor(time.perf_counter() - start)
        distributed.all_reduce(taken, op=distributed.ReduceOp.MAX)
        seconds.append(float(taken))
    return statistics.median(seconds[1:])


def work(rank, world, store, turns):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(rank)
    rows = T * K  # that each process sends, and on average takes
    sizes = [rows // 16, rows // 4, rows]
    taken = [torch.randn(size, D) for size in sizes]
    sent = [median(lambda x=x: distributed.all_to_all_single(torch.empty_like(x), x), turns) for x in taken]
    here = SwiGLU(E // world, D, F).requires_grad_(False)
    even = [torch.full((E // world,), size * world // E) for size in sizes]
    with roster.dispatch.use("blocks"):
        made = [median(lambda x=x, n=n: here(x, n), turns) for x, n in zip(taken, even, strict=True)]
    lines = Lines(exchange=Line.through(sizes, sent), experts=Line.through(sizes, made))
    layer = Layer(exchange=rows, experts=rows)

    mesh = init_device_mesh("cpu", (world,))
    experts = SwiGLU(E, D, F)
    for name, parameter in list(experts.named_parameters()):
        whole = distribute_tensor(parameter.detach(), mesh, [Shard(0)])
        experts.register_parameter(name, torch.nn.Parameter(whole, requires_grad=False))
    x_TD = torch.randn(T, D)
    expert_TK = torch.rand(T, E).topk(K).indices
    route = Route.slots(expert_TK, torch.full((T, K), 1 / K), E, full=True)
    found = {}
    for degree in DEGREES:
        with pipelined(degree), roster.dispatch.use("blocks"), torch.no_grad():
            seconds = median(lambda: route.through(experts, x_TD), turns)
        found[degree] = {"measured": seconds, "modelled": layer_time(layer, lines, degree)}
    if rank == 0:
        print(json.dumps({"lines": lines.model_dump(), "degrees": found, "chosen": degree_of(layer, lines)}, indent=1))
        print(f"cores {len(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (given.world, f"{folder}/store", given.turns), given.world)
