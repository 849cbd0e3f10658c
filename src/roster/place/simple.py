"""Placements without a search: as numbered, at random, and greedily by load.

`greedy` is the balancing of "Towards MoE Deployment" (Huang et al., 2023, arXiv:2303.06182): the busiest expert goes to
the device with the least load, and, with `apart`, away from experts that are busy for the same tokens.

Shape legend: L layers, E experts, G devices.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from roster.place.cost import cost_of
from roster.place.machine import Machine
from roster.place.placement import Found, from_devices
from roster.place.traffic import Traffic

Ints = NDArray[np.int64]


def contiguous(traffic: Traffic, machine: Machine) -> Found:
    """The first experts on the first device, and so on: what engines do."""
    began = time.perf_counter()
    return _found(contiguous_devices(traffic, machine), traffic, machine, began)


def contiguous_devices(traffic: Traffic, machine: Machine) -> Ints:
    """The device of each expert, [L, E]."""
    each = machine.check_experts(traffic.experts)
    return np.tile(np.arange(traffic.experts) // each, (traffic.layers, 1))


def random(traffic: Traffic, machine: Machine, seed: int = 0) -> Found:
    """Any placement with equal counts."""
    began = time.perf_counter()
    draw = np.random.default_rng(seed)
    return _found(random_devices(traffic, machine, draw), traffic, machine, began)


def random_devices(traffic: Traffic, machine: Machine, draw: np.random.Generator) -> Ints:
    """The device of each expert, [L, E]."""
    return draw.permuted(contiguous_devices(traffic, machine), axis=1)


def greedy(traffic: Traffic, machine: Machine, apart: float = 0.0) -> Found:
    """Busy experts first, each to the device with the least load that has room.

    Args:
        traffic, machine: what is placed, and where.
        apart: how much a device counts as busier for each token that the expert shares with those it holds.
    """
    began = time.perf_counter()
    each = machine.check_experts(traffic.experts)
    device_LE = np.zeros((traffic.layers, traffic.experts), np.int64)
    for layer, load_E in enumerate(traffic.load_LE):
        held: list[list[int]] = [[] for _ in range(machine.devices)]
        busy_G = np.zeros(machine.devices)
        for expert in np.argsort(-load_E, kind="stable").tolist():
            shared_G = np.array([traffic.together_LEE[layer, expert, own].sum() for own in held])
            full_G = np.array([len(own) == each for own in held])
            device = int(np.argmin(np.where(full_G, np.inf, busy_G + apart * shared_G)))
            held[device].append(expert)
            busy_G[device] += load_E[expert]
            device_LE[layer, expert] = device
    return _found(device_LE, traffic, machine, began)


def _found(device_LE: Ints, traffic: Traffic, machine: Machine, began: float) -> Found:
    placement = from_devices(device_LE, machine)
    return Found(placement, cost_of(placement, traffic).crossings, None, time.perf_counter() - began)
