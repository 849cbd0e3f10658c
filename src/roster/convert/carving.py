"""Carving: a dense block's hidden units dealt out to experts, some of them always on; the plan of the mixture.

Weights stay what they are but for powers of two and the number of experts on duty: chosen experts weigh the same
(`fitting.FLAT`), and their answers are added, not averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from roster.convert.container import Container, Expert, Sizes, side_files
from roster.convert.dense import PARTS, Dense
from roster.convert.fitting import FLAT
from roster.convert.kernels import Given
from roster.errors import RosterError
from roster.header import Spec
from roster.weights import MAX_SHARD, Columns, Copy, Operand, Output, Plan, Rows, Views, make_plan


@dataclass(frozen=True)
class Cut:
    """One layer.

    Attributes:
        always: hidden units that are always on.
        experts: those of each expert, equally many in all.
        rows_ED: of the router, for logits of usual size.
    """

    always: Sequence[int]
    experts: Sequence[Sequence[int]]
    rows_ED: Tensor


def plan_cut(
    dense: Dense,
    cuts: Mapping[int, Cut],
    top_k: int,
    factor: float,
    into: Container,
    max_shard: int = MAX_SHARD,
    title: str = "carving",
) -> Plan:
    """The plan of a mixture whose experts are parts of the dense blocks.

    Args:
        dense: the model.
        cuts: of every layer, all of one shape.
        top_k: experts that a token gets.
        factor: what a chosen expert's answer is multiplied by in the sum.
        into: the container.
        max_shard: bytes of one output file.
        title: in reports.

    Raises:
        RosterError: units that are always on, and a container without a shared expert (or the other way round).
    """  # fmt: skip
    one = cuts[0]
    if bool(one.always) != into.shared:
        has = "has" if into.shared else "has no"
        raise RosterError(f"{into.name} {has} place for what is always on; here {len(one.always)} hidden units are")
    outputs = [Output(name, spec, (Operand(dense.source, name),), Copy()) for name, spec in dense.others().items()]
    for layer, cut in cuts.items():
        # A container's weights sum to 1: k experts on duty have 1/k each.
        experts = [_expert(dense, layer, units, top_k * factor) for units in cut.experts]
        shared = _expert(dense, layer, cut.always, 1.0) if cut.always else None
        outputs += into.outputs(layer, experts, shared)
        dtype = dense.operand(layer, "gate").spec.dtype
        rows = cut.rows_ED * FLAT
        outputs.append(Output(into.router(layer), Spec(dtype, tuple(rows.shape)), (), Given(rows)))
    sizes = Sizes(len(one.experts), top_k, len(one.experts[0]), len(one.always))
    return make_plan(outputs, [dense.source], side_files(dense, into, sizes), max_shard, title)


def _expert(dense: Dense, layer: int, units: Sequence[int], factor: float) -> Expert:
    parts = {}
    for part in PARTS:
        operand = dense.operand(layer, part)
        view = (Columns if part == "down" else Rows)(operand, units)
        parts[part] = Operand(Views(dense.source.name, {part: view}), part)
    return Expert(parts, {"down": factor})
