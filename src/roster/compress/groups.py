"""Fewer experts: each new one is an old one, or the weighted mean of several whose hidden units were put in one order.

Dropping is the case of groups of one. The same groups change a block in memory (`regroup_block`) and a checkpoint on
disk (`plan_groups`), by the same kernel.

Shape legend: E experts, N new experts, D model width, F expert width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from roster.compress.low_rank import LowRankSparse
from roster.compress.mixture import PARTS, TOP_K, Mixture
from roster.header import Spec
from roster.merge.linear import Linear
from roster.merge.side_files import model_files
from roster.weights import MAX_SHARD, Columns, Copy, Kernel, Operand, Output, Plan, Rows, Views, apply, make_plan
from roster.weights.views import View

REPORT = "compress.json"


@dataclass(frozen=True)
class Group:
    """One new expert.

    Attributes:
        members: the old experts that it is made of.
        weights: of each in the mean.
        orders: where each one's hidden units go, [F]: unit i of the new expert is unit orders[i] of the member; None
            leaves them where they are.
    """

    members: tuple[int, ...]
    weights: tuple[float, ...]
    orders: tuple[Tensor | None, ...]

    @classmethod
    def alone(cls, expert: int) -> Group:
        """An old expert as it is."""
        return cls((expert,), (1.0,), (None,))


@dataclass(frozen=True)
class Regrouped:
    """A layer's new experts.

    Attributes:
        groups: of each new expert.
        rows_NE: each new row of the router as a weighted sum of old ones.
        low_rank: rank and share of columns of `LowRankSparse`; None leaves merged matrices whole.
        figures: what the report says of the layer.
    """

    groups: tuple[Group, ...]
    rows_NE: Tensor
    low_rank: tuple[int, float] | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def kept(cls, experts: Sequence[int], of: int, **figures: Any) -> Regrouped:
        """Some experts as they are, and their rows of the router; the others are gone."""
        rows = torch.zeros(len(experts), of)
        rows[torch.arange(len(experts)), torch.tensor(list(experts))] = 1
        return cls(tuple(Group.alone(each) for each in experts), rows, None, {"kept": list(experts), **figures})

    def kernel(self, group: Group) -> Kernel:
        """A fresh one for one matrix of a group."""
        if self.low_rank is not None:
            return LowRankSparse(group.weights, *self.low_rank)
        return Copy() if len(group.members) == 1 else Linear(group.weights)


@torch.no_grad()
def regroup_block(block: Any, made: Regrouped) -> None:
    """Changes a block of transformers in memory: experts, router, and how many a token gets where that is too many."""
    experts, gate = block.experts, block.gate
    gate_up, down = experts.gate_up_proj, experts.down_proj
    new_gate_up, new_down = [], []
    for group in made.groups:
        matrices: dict[str, list[Tensor]] = {part: [] for part in PARTS}
        for member, order in zip(group.members, group.orders, strict=True):
            own = dict(zip(PARTS, (*gate_up[member].chunk(2), down[member]), strict=True))
            for part, matrix in own.items():
                if order is not None:
                    matrix = matrix[:, order] if part == "down" else matrix[order]
                matrices[part].append(matrix.float().cpu())
        merged = {part: apply(made.kernel(group), each) for part, each in matrices.items()}
        new_gate_up.append(torch.cat([merged["gate"], merged["up"]]))
        new_down.append(merged["down"])
    experts.gate_up_proj = nn.Parameter(torch.stack(new_gate_up).to(gate_up))
    experts.down_proj = nn.Parameter(torch.stack(new_down).to(down))
    gate.weight = nn.Parameter((made.rows_NE.to(gate.weight.device) @ gate.weight.float()).to(gate.weight))
    experts.num_experts = gate.num_experts = len(made.groups)
    gate.top_k = min(gate.top_k, len(made.groups))


def plan_groups(
    mixture: Mixture,
    layers: Mapping[int, Regrouped],
    report: Mapping[str, Any],
    max_shard: int = MAX_SHARD,
    title: str = "compress",
) -> Plan:
    """The plan of the smaller mixture.

    Args:
        mixture: what it is made of.
        layers: the new experts of each of its layers, equally many in all.
        report: goes into `compress.json`, with each layer's figures.
        max_shard: bytes of one output file.
        title: in reports.
    """
    count = len(next(iter(layers.values())).groups)
    outputs = [Output(name, spec, (Operand(mixture.source, name),), Copy()) for name, spec in mixture.others().items()]
    for layer, regrouped in layers.items():
        for number, group in enumerate(regrouped.groups):
            for part in PARTS:
                operands = tuple(
                    _ordered(mixture.matrix(layer, member, part), part, order)
                    for member, order in zip(group.members, group.orders, strict=True)
                )
                name = mixture.matrix_name(layer, number, part)
                outputs.append(Output(name, operands[0].spec, operands, regrouped.kernel(group)))
        router = _viewed(_router(mixture.router(layer), regrouped.rows_NE), mixture.router(layer))
        outputs.append(Output(mixture.router_name(layer), router.spec, (router,), Copy()))
    figures = {str(layer): dict(each.figures) for layer, each in layers.items()}
    files = side_files(mixture, {mixture.count: count, TOP_K: min(mixture.top_k, count)})
    files[REPORT] = (json.dumps({**report, "layers": figures}, indent=1) + "\n").encode()
    return make_plan(outputs, [mixture.source], files, max_shard, title)


def side_files(mixture: Mixture, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Config (with some settings changed), tokenizer and generation settings."""
    files: dict[str, Any] = model_files(mixture.source.folder)
    files["config.json"] = (json.dumps({**mixture.config, **settings}, indent=2) + "\n").encode()
    return files


def _ordered(operand: Operand, part: str, order: Tensor | None) -> Operand:
    if order is None:
        return operand
    kind = Columns if part == "down" else Rows
    return _viewed(kind(operand, order.tolist()), operand)


def _viewed(view: View, operand: Operand) -> Operand:
    return Operand(Views(operand.source.name, {operand.tensor: view}), operand.tensor)


def _router(operand: Operand, rows_NE: Tensor) -> View:
    chosen = rows_NE.argmax(1)
    plain = torch.zeros_like(rows_NE).scatter_(1, chosen[:, None], 1.0)
    return Rows(operand, chosen.tolist()) if torch.equal(rows_NE, plain) else Mixed(operand, rows_NE)


class Mixed:
    """Rows that are weighted sums of a small matrix's rows."""

    def __init__(self, operand: Operand, rows_NE: Tensor) -> None:
        self.of = (operand,)
        self._rows_NE = rows_NE.float()
        self.spec = Spec(operand.spec.dtype, (len(rows_NE), *operand.spec.shape[1:]))

    def read(self, start: int, stop: int) -> Tensor:
        """The whole matrix is read, mixed and cut: routers are small."""
        operand = self.of[0]
        whole = operand.source.read(operand.tensor, 0, operand.spec.numel).view(operand.spec.shape)
        return (self._rows_NE @ whole.float()).to(self.spec.dtype).flatten()[start:stop]

    def key(self) -> object:
        """The weights."""
        return ("mixed", self._rows_NE.tolist())
