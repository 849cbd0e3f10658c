"""Expert buffering: popular experts stay, the others share the remaining slots; idle ones go, the last come first.

Source: Huang et al., 2023, "Towards MoE Deployment: Mitigating Inefficiencies in Mixture-of-Expert (MoE) Inference",
arXiv:2303.06182. Of its three parts: gating without capacity is how every dispatch here works, balance over devices is
`roster.place` (greedy), buffering is this file.
Differences: who is popular is read off recorded routes; without them nobody is. The buffer's share is an option.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

import numpy as np

from roster.offload.layout import Key
from roster.offload.policies import FIFO
from roster.offload.residency import Residency, by_layer
from roster.offload.strategy import Geometry, Run, Strategy

if TYPE_CHECKING:
    from roster.offload.traces import Routes


class LastInFirstOut(FIFO):
    """Of the experts that this batch does not need, the one that came last goes."""

    def victim(self, keep: Container[Key]) -> Key | None:
        """From the end of the queue."""
        for key in reversed(self._held):
            if key not in keep:
                del self._held[key]
                return key
        return None


def moe_deployment(static: float) -> Strategy:
    """See the module.

    Args:
        static: share of each layer's slots for its most popular experts.
    """

    def begin(geometry: Geometry, slots: int, routes: Routes | None) -> Run:
        shares = by_layer(slots, geometry.experts)
        popular: list[Key] = []
        if routes is not None:
            load_LE = np.sum(list(routes.matrices()), axis=0)
            for layer, load_E in enumerate(load_LE):
                count = min(int(static * shares.slots[layer]), shares.slots[layer] - 1)
                popular += [(layer, int(expert)) for expert in np.argsort(-load_E, kind="stable")[:count]]
        return Run(Residency(shares, lambda _: LastInFirstOut(), popular))

    return begin
