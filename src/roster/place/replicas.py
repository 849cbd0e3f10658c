"""Copies of hot experts, in slots that a placement leaves free on each device: copies share an expert's tokens.

Shape legend: L layers, E experts, G devices, P slots.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.place.placement import Placement
from roster.place.traffic import Traffic


def replicate(placement: Placement, traffic: Traffic, spare: int) -> Placement:
    """Fills spare slots: one at a time, with the copy that makes the busiest device of the layer least busy.

    Args:
        placement: each expert once.
        traffic: of routes to learn from.
        spare: slots more on each device, in every layer.

    Raises:
        RosterError: more slots on a device than there are experts.
    """
    L, P = placement.slot_LP.shape
    G, E = placement.machine.devices, placement.experts
    if spare < 0 or P // G + spare > E:
        raise RosterError(f"{spare} spare slots on each device: with {P // G} there are more than the {E} experts")
    made = []
    for layer in range(L):
        held_GE = np.stack([np.bincount(own, minlength=E) for own in placement.slot_LP[layer].reshape(G, -1)])
        for _ in range(spare * G):
            device, expert = _next_copy(held_GE, traffic.load_LE[layer], P // G + spare)
            held_GE[device, expert] += 1
        made.append(np.concatenate([np.repeat(np.arange(E), own) for own in held_GE]))
    return Placement(np.stack(made), placement.machine, E)


def _next_copy(held_GE: NDArray[np.int64], load_E: NDArray[np.float64], room: int) -> tuple[int, int]:
    """(device with room, expert) after which the busiest device is least busy.

    A second copy on a device that holds the expert already may be the best that its last slot can do.
    """
    G, E = held_GE.shape
    copies_E = held_GE.sum(0)
    before_GE = load_E * held_GE / copies_E
    diluted_GE = load_E * held_GE / (copies_E + 1)
    # Of each choice (device D, expert E) every device's load, G.
    after_DEG = before_GE.sum(1) + (diluted_GE - before_GE).T[None] + np.zeros((G, 1, 1))
    after_DEG[np.arange(G), :, np.arange(G)] += load_E / (copies_E + 1)
    # Among equals, the one after which loads are most even.
    value_DE = after_DEG.max(2) + 1e-6 * (after_DEG**2).sum(2) / max(float(load_E.sum()), 1.0)
    value_DE[held_GE.sum(1) >= room] = np.inf
    device, expert = np.unravel_index(int(value_DE.argmin()), (G, E))
    return int(device), int(expert)
