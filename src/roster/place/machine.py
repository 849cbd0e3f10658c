"""The machine that experts are placed on: devices, the nodes that hold them, and how fast they talk.

Shape legend: G devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Machine:
    """Devices in nodes of equal size, numbered node by node.

    Attributes:
        devices: G.
        nodes: how many.
        within, between: bytes per second from one device to another of the same node, and of another node; by default
            300 GB/s and 25 GB/s, an NVLink generation and a 200 Gbit/s network.

    Raises:
        RosterError: devices that do not divide into the nodes, or a bandwidth that is none.
    """

    devices: int
    nodes: int = 1
    within: float = 300e9
    between: float = 25e9

    def __post_init__(self) -> None:
        if self.devices < 1 or self.nodes < 1 or self.devices % self.nodes:
            raise RosterError(f"{self.devices} devices do not divide into {self.nodes} nodes of equal size")
        if not (self.within > 0 and self.between > 0):
            raise RosterError("bandwidths must be above 0 bytes per second")

    def node_of(self) -> NDArray[np.int64]:
        """The node of each device, [G]."""
        return np.arange(self.devices) // (self.devices // self.nodes)

    def hops(self) -> Floats:
        """0 to itself, 1 within a node, 2 between nodes; [G, G]."""
        node_G = self.node_of()
        apart_GG = (node_G[:, None] != node_G[None]).astype(float)
        hops_GG: Floats = 1.0 - np.eye(self.devices) + apart_GG
        return hops_GG

    def seconds_per_byte(self) -> Floats:
        """From one device to another; 0 to itself; [G, G]."""
        hops_GG = self.hops()
        seconds_GG: Floats = np.select([hops_GG == 0, hops_GG == 1], [0.0, 1.0 / self.within], 1.0 / self.between)
        return seconds_GG

    def check_experts(self, experts: int) -> int:
        """Experts per device, when they divide; RosterError otherwise."""
        if experts % self.devices:
            raise RosterError(
                f"{experts} experts do not divide into {self.devices} devices: engines with expert parallelism hold "
                "the same number on each; give a number of devices that divides them"
            )
        return experts // self.devices
