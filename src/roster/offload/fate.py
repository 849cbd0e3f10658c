"""Fate: the next layer's gate, applied to this layer's input, says which experts the next layer will need.

Hidden states change little from a layer to the next, so that the guess is mostly right, and it costs one small matmul
and no training. Early layers are foretold worst and get more slots; ARC makes room.

Source: Fang et al., 2025, "Accurate Expert Predictions in MoE Inference via Cross-Layer Gate", arXiv:2502.12224.
Differences: experts are not quantised; how much more early layers get is one number (`shallow`), chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence

from roster.offload.layout import Key
from roster.offload.policies import ARC
from roster.offload.predicting import Moment, ranked
from roster.offload.residency import Residency, by_layer
from roster.offload.strategy import Geometry, Run, Strategy


class CrossLayerGate:
    """Names what the next layer's gate chose.

    Args:
        extra: for each token, so many experts more than it will visit.
    """

    def __init__(self, extra: int = 0) -> None:
        self.extra = extra

    def start(self, ids_BS: Sequence[Sequence[int]], new: bool) -> list[Key]:
        """Of the first layer nothing is known."""
        return []

    def after(self, moment: Moment) -> list[Key]:
        """The next layer's, by votes."""
        if moment.next_gate is None:
            return []
        return [(moment.layer + 1, expert) for expert in ranked(moment.next_gate())]


def fate(shallow: float, extra: int) -> Strategy:
    """See the module; `shallow` as in `residency.by_layer`, `extra` as in `CrossLayerGate`."""

    def begin(geometry: Geometry, slots: int, routes: object) -> Run:
        return Run(Residency(by_layer(slots, geometry.experts, shallow), ARC), CrossLayerGate(extra))

    return begin
