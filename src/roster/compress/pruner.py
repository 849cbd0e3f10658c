"""MoE-Pruner: single weights of the experts are set to 0, row by row, by |W| times the size of what meets them.

Equation: S_ij = |W_ij| * ||x_j g||, over the calibration tokens that the expert was given, g their weights; in each
row the lowest go: a share of them, or 2 of every 4. Layers are done in turn.
Source: Xie et al. 2024, MoE-Pruner, arXiv 2410.12013; no code of the authors was found. `score=wanda` leaves g away
(Sun et al. 2024, arXiv 2306.11695), `score=magnitude` x too. Differences: no distillation afterwards. An expert without
tokens is pruned by magnitude.

Shapes stay: the file is as large as before, holds zeros, and every loader reads it. Formats that store 2:4 in less are
for the engine's own tools.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from roster.compress.groups import REPORT, side_files
from roster.compress.mixture import PARTS, Mixture
from roster.compress.seen import Seen
from roster.compress.size import share_of
from roster.errors import RosterError, nearest
from roster.weights import MAX_SHARD, Copy, Kernel, Operand, Output, Plan, apply, make_plan

SCORES = ("gated", "wanda", "magnitude")


@dataclass
class Pruned(Kernel):
    """A matrix with zeros.

    Args:
        norms: of each column's input, [columns].
        keep: share of each row that stays; 0 for 2 of every 4.
        digest: of the norms, for the fingerprint.
    """

    norms: Tensor = field(repr=False)
    keep: float
    digest: str = ""

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256(self.norms.float().numpy().tobytes()).hexdigest()[:16]

    def unit(self, shape: tuple[int, ...]) -> int:
        """A row."""
        return shape[-1]

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module; of equal scores the first go."""
        rows = x[0].view(-1, len(self.norms))
        score = rows.abs() * self.norms.to(rows)
        gone = round(len(self.norms) * (1 - self.keep))
        if not self.keep:
            rows, score, gone = rows.view(-1, 4), score.view(-1, 4), 2
        return rows.scatter_(1, score.argsort(dim=1, stable=True)[:, :gone], 0.0).flatten()


class MoePruner:
    """See the module.

    Args:
        mixture: to prune.
        to: "50%" of each row, or "2:4".
        score: gated, wanda or magnitude.
    """

    slug: ClassVar[str] = "moe-pruner"
    in_turn: ClassVar[bool] = True

    def __init__(self, mixture: Mixture, to: str, score: str = "gated") -> None:
        if score not in SCORES:
            raise RosterError(f"moe-pruner: score={score!r}: {nearest(score, SCORES)}")
        self.keep = 0.0 if to.strip() == "2:4" else share_of(to)
        if not self.keep and (mixture.width % 4 or mixture.hidden % 4):
            raise RosterError(f"moe-pruner: 2:4 needs rows in fours; experts are {mixture.hidden} x {mixture.width}")
        self.mixture, self.score = mixture, score

    def decide(self, seen: Mapping[int, Seen]) -> dict[int, list[dict[str, Tensor]]]:
        """Norms of what each expert's matrices read, by part."""
        return {layer: [self._norms(each, e) for e in range(self.mixture.experts)] for layer, each in seen.items()}

    def _norms(self, seen: Seen, expert: int) -> dict[str, Tensor]:
        if self.score == "magnitude" or not seen.count_E[expert]:
            return {part: torch.ones(self.mixture.hidden if part == "down" else self.mixture.width) for part in PARTS}
        inputs, middle = (
            (seen.gated_inputs_ED, seen.gated_middle_EF) if self.score == "gated" else (seen.inputs_ED, seen.middle_EF)
        )
        return {part: (middle if part == "down" else inputs)[expert].sqrt().float() for part in PARTS}

    @torch.no_grad()
    def change(self, block: Any, decision: Sequence[Mapping[str, Tensor]]) -> None:
        """See `roster.compress.method.Method`."""
        for expert, norms in enumerate(decision):
            gate, up = block.experts.gate_up_proj[expert].chunk(2)
            for part, matrix in (("gate", gate), ("up", up), ("down", block.experts.down_proj[expert])):
                matrix.copy_(apply(Pruned(norms[part], self.keep), [matrix.float().cpu()]))

    def plan(self, decisions: Mapping[int, Any], report: Mapping[str, Any], max_shard: int = MAX_SHARD) -> Plan:
        """See `roster.compress.method.Method`."""
        mixture = self.mixture
        outputs = [
            Output(name, spec, (Operand(mixture.source, name),), Copy()) for name, spec in mixture.others().items()
        ]
        for layer, experts in decisions.items():
            outputs.append(_as_it_is(mixture, layer))
            for expert, norms in enumerate(experts):
                for part in PARTS:
                    matrix = mixture.matrix(layer, expert, part)
                    kernel = Pruned(norms[part], self.keep)
                    outputs.append(Output(mixture.matrix_name(layer, expert, part), matrix.spec, (matrix,), kernel))
        files = side_files(mixture, {})
        files[REPORT] = (json.dumps({**report, "kept": self.keep or "2:4"}, indent=1) + "\n").encode()
        kept = f"{self.keep:.0%}" if self.keep else "2:4"
        return make_plan(
            outputs, [mixture.source], files, max_shard, f"moe-pruner: {kept} of the experts' weights stay"
        )


def _as_it_is(mixture: Mixture, layer: int) -> Output:
    router = mixture.router(layer)
    return Output(mixture.router_name(layer), router.spec, (router,), Copy())
