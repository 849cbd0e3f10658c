"""MergeME: expert models into one mixture whose shared weights are merged against interference, and not averaged.

Equation: every tensor outside the blocks is theta_0 + scale * M(tau_1, ..., tau_N), M either TIES (the largest
`density` of each task vector over all shared tensors stay, per element the models of the elected sign are added) or
DARE (entries dropped at random, the others scaled up, all added); the blocks are the experts, and their routers are
new: the mixture must be trained after this, as with btx. `shared=mean` is btx, with the base left out.

Source: Zhou et al. 2025, arXiv 2502.00997, read second-hand; no code of the authors was found. Their numbers: density
0.8, scale 1/3. Differences: whether their TIES divides by the number of models that agree is not known: here it adds,
as their DARE does. Models of different shapes (projectors around each block, all trained) are refused. The way without
training, whole models weighed by the perplexity of the prompt, is `roster.convert.perplexity`.
"""

from __future__ import annotations

from collections.abc import Sequence

from roster.convert.btx import branches, check_alike
from roster.convert.container import Mixtral, Sizes, side_files
from roster.convert.dense import Dense
from roster.convert.upcycling import ROUTER_STD
from roster.errors import RosterError, nearest
from roster.merge.methods import find_method
from roster.weights import MAX_SHARD, Copy, Kernel, Operand, Output, Plan, Spec, make_plan, same_specs

_METHODS = {"ties": "ties", "dare": "dare_linear", "mean": "task_arithmetic"}
SHARED = tuple(_METHODS)


def plan_mergeme(
    models: Sequence[Dense],
    shared: str = "ties",
    density: float = 0.8,
    scale: float = 1 / 3,
    top_k: int = 2,
    std: float = ROUTER_STD,
    seed: int = 0,
    max_shard: int = MAX_SHARD,
) -> Plan:
    """The plan of the mixture; config and tokenizer are the base's.

    Args:
        models: the base, then one an expert; all of one shape.
        shared: how tensors outside the blocks are merged: "ties", "dare" or "mean".
        density: share of each task vector that stays.
        scale: of the merged task vector; "mean" divides by the number of models instead.
        top_k: experts a token gets.
        std: of the new routers' rows.
        seed: of their draw, and of DARE's.
        max_shard: bytes of one output file.

    Raises:
        RosterError: fewer than a base and two models; other tensors, shapes or vocabularies than the base's.
    """
    if shared not in SHARED:
        raise RosterError(f"mergeme: shared={shared!r}: {nearest(shared, SHARED)}")
    if len(models) < 3:
        raise RosterError("mergeme takes the base and at least two models made of it")
    if not 0 < density <= 1:
        raise RosterError(f"mergeme: density={density} must be above 0, and 1 at most")
    check_alike(models)
    base, experts = models[0], models[1:]
    method = find_method(_METHODS[shared])
    values = {name: each.default for name, each in method.settings.items()}
    values |= {"weight": (1.0,) * len(experts), "lambda": 1 / len(experts) if shared == "mean" else scale}
    given = {"density": (density,) * len(experts), "normalize": False, "seed": seed}
    values |= {name: each for name, each in given.items() if name in values}
    common = method.shares(len(experts)) if method.shares else None
    outputs = []
    for name in base.others():
        operands = tuple(Operand(each.source, name) for each in models)
        spec = same_specs(name, operands)
        floats = spec.dtype.is_floating_point
        kernel: Kernel = method.make(values, name, spec.shape, common) if floats else Copy()
        outputs.append(Output(name, Spec(spec.dtype, spec.shape), operands if floats else operands[:1], kernel))
    outputs += branches(experts, std, seed)
    files = side_files(base, Mixtral(), Sizes(len(experts), top_k, base.width))
    title = f"mergeme of {len(experts)} models"
    return make_plan(outputs, [each.source for each in models], files, max_shard, title)
