"""Upcycling: experts that are copies of one dense block, or of its shards.

Source: Komatsuzaki et al. 2022, arXiv 2212.05055 (copies); He et al. 2024, arXiv 2410.07524 (`nemotron-upcycling`: a
block is cut into G shards of neighbouring hidden units, the shards are copied, and G rows of the router are equal, so
that a token's k experts, a multiple of G, are whole groups, each shard once: "virtual group initialisation").

Scale. With a softmax over the k chosen, all of a group alike, a group of G shards adds up to 1 / G of the block, so
the experts must be G times as large. The released code (Megatron-LM, `moe/upcycling_utils.py`) multiplies both matrices
of a gated block by the cube root of G. That is exact where the activation is homogeneous of degree two (squared ReLU);
with SiLU it is another function. Here up and down are multiplied by the square root of G each and gate is left, which
is the block itself for every activation; where G is a power of two, up and down are multiplied by powers of two instead
(G = 2: up by 2), which no type of weights rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from roster.convert.container import Expert, Sizes, find_container, side_files
from roster.convert.dense import PARTS, Dense
from roster.convert.kernels import DrawnRouter
from roster.errors import RosterError
from roster.header import Spec
from roster.weights import MAX_SHARD, Columns, Copy, Operand, Output, Plan, Rows, Views, make_plan
from roster.weights.views import View

ROUTER_STD = 0.02


def plan_upcycling(
    dense: Dense,
    copies: int = 8,
    shards: int = 1,
    groups: int = 2,
    std: float = ROUTER_STD,
    seed: int = 0,
    container: str = "mixtral",
    max_shard: int = MAX_SHARD,
) -> Plan:
    """The plan of a mixture that answers as `dense` does before it is trained.

    Args:
        dense: the model.
        copies: of its block (or of each shard).
        shards: G, the parts that a block is cut into; the mixture has ``copies * shards`` experts.
        groups: of shards that a token gets: ``groups * shards`` experts on duty.
        std: of the new routers' rows.
        seed: of their draw.
        container: "mixtral", or "qwen2-moe" or "granite-moe-shared", where the block itself is the shared expert and
            answers one half, and the experts the other.
        max_shard: bytes of one output file.

    Raises:
        RosterError: a width that does not divide by the shards, more groups than copies.
    """
    if copies < 1 or shards < 1 or dense.width % shards:
        raise RosterError(f"a block of {dense.width} hidden units does not divide into {shards} shards")
    if not 1 <= groups <= copies:
        raise RosterError(f"{groups} groups on duty of {copies} copies: it must be from 1 to their number")
    experts, width = copies * shards, dense.width // shards
    into = find_container(container)
    half = 0.5 if into.shared else 1.0
    cut = _shards(dense, shards if shards > 1 else 0)
    outputs = [Output(name, spec, (Operand(dense.source, name),), Copy()) for name, spec in dense.others().items()]
    for layer in range(len(dense.blocks)):
        made = list(_experts(dense, cut, layer, copies, shards, half))
        outputs += into.outputs(layer, made, _shared(dense, layer) if into.shared else None)
        spec = dense.operand(layer, "gate").spec
        router = DrawnRouter(std, shards, seed + layer)
        outputs.append(Output(into.router(layer), Spec(spec.dtype, (experts, spec.shape[1])), (), router))
    sizes = Sizes(experts, groups * shards, width, dense.width if into.shared else 0)
    files = side_files(dense, into, sizes)
    return make_plan(outputs, [dense.source], files, max_shard, f"upcycling to {experts} experts")


def _shards(dense: Dense, shards: int) -> Views:
    """Every shard's matrices, called layer.shard.part; none where blocks stay whole."""
    views = dict[str, View]()
    width = dense.width // max(shards, 1)
    for layer in range(len(dense.blocks)):
        for shard in range(shards):
            units = range(shard * width, (shard + 1) * width)
            for part in PARTS:
                view = Columns if part == "down" else Rows
                views[f"{layer}.{shard}.{part}"] = view(dense.operand(layer, part), units)
    return Views(dense.source.name, views)


def _experts(dense: Dense, cut: Views, layer: int, copies: int, shards: int, part_of: float) -> Iterator[Expert]:
    factors = _factors(shards)
    factors["down"] *= part_of
    # The source: expert copy * G + shard is the shard.
    for expert in range(copies * shards):
        names = {part: f"{layer}.{expert % shards}.{part}" for part in PARTS}
        parts = {part: Operand(cut, names[part]) if shards > 1 else dense.operand(layer, part) for part in PARTS}
        yield Expert(parts, factors)


def _shared(dense: Dense, layer: int) -> Expert:
    return Expert({part: dense.operand(layer, part) for part in PARTS}, {"down": 0.5})


def _factors(shards: int) -> dict[str, float]:
    """What each part is multiplied by: together `shards`, and nothing that a type would round where that can be."""
    whole = shards.bit_length() - 1
    if shards == 1 << whole:
        return {"gate": 1.0, "up": float(1 << whole - whole // 2), "down": float(1 << whole // 2)}
    return {"gate": 1.0, "up": math.sqrt(shards), "down": math.sqrt(shards)}
