"""What a placement costs on some routes: crossings, the busiest device, and the time of the exchanges between layers.

The model of time: between two layers every token's state goes from the device of its expert to the device of the next;
all pairs of devices talk at once, so a step takes as long as its busiest pair. Contexts are everywhere (ExFlow), so
that there is one exchange a layer. Latency, and computation meanwhile, are left out.

Shape legend: L layers, E experts, G devices.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.place.placement import Placement
from roster.place.traffic import Traffic

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cost:
    """Figures of one placement on some traffic.

    Attributes:
        crossings: share of steps from one layer to the next that change the device.
        node_crossings: share that change the node.
        busiest: load of the busiest device over the mean, averaged over layers; 1 is even.
        exchange: seconds of all exchanges, each as long as its busiest pair.
    """

    crossings: float
    node_crossings: float
    busiest: float
    exchange: float

    def to_json(self) -> dict[str, Any]:
        """By name."""
        return asdict(self)


def cost_of(placement: Placement, traffic: Traffic, nbytes: float = 8192.0) -> Cost:
    """Judges a placement; `nbytes` is what a token's state takes (width 4,096 in 16 bits by default)."""
    shares_LEG = placement.shares()
    flow_LGG = flows(shares_LEG, traffic)
    hops_GG = placement.machine.hops()
    total = max(float(flow_LGG.sum()), 1e-12)
    load_LG = np.einsum("le,leg->lg", traffic.load_LE, shares_LEG)
    seconds_LGG = flow_LGG * placement.machine.seconds_per_byte() * nbytes
    return Cost(
        crossings=float(flow_LGG[:, hops_GG > 0].sum()) / total,
        node_crossings=float(flow_LGG[:, hops_GG > 1].sum()) / total,
        busiest=float((load_LG.max(1) / np.maximum(load_LG.mean(1), 1e-12)).mean()),
        exchange=float(seconds_LGG.max(axis=(1, 2)).sum()),
    )


def flows(shares_LEG: Floats, traffic: Traffic) -> Floats:
    """Tokens from device to device between each layer and the next, [L - 1, G, G]; copies are chosen alike."""
    flow_LGG: Floats = np.einsum("leg,lef,lfh->lgh", shares_LEG[:-1], traffic.pairs_LEE, shares_LEG[1:], optimize=True)
    return flow_LGG
