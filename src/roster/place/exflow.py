"""ExFlow: experts that follow one another are put on one device, so that fewer tokens cross between layers.

Minimised is the mean number of hops of a step from a layer to the next: 0 on one device, 1 within a node, 2 between
nodes; devices hold equally many experts of every layer. Only counts of pairs matter, and for one layer with its
neighbours fixed the best choice is a linear assignment; so layers are assigned in turn until none improves, from many
starts. Instances that an integer program can prove (`_LIMIT`) are given to HiGHS too, with the same objective; for the
others the bound is that of each pair of layers by itself.

Source: Yao et al., 2024, "Exploiting Inter-Layer Expert Affinity for Accelerating Mixture-of-Experts Model Inference",
arXiv:2401.08383.
Differences: the source solves an integer program over 5,000 tokens by repeated halving; here all pairs are counted and
nodes and devices are decided together. Its other part, contexts on all devices and one exchange a layer, is the
engine's; `cost.py` counts one.

Shape legend: L layers, E experts, G devices.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, milp  # type: ignore[import-untyped]
from scipy.sparse import coo_array  # type: ignore[import-untyped]

from roster.place.machine import Machine
from roster.place.placement import Found, from_devices
from roster.place.simple import contiguous_devices, random_devices
from roster.place.traffic import Traffic

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_LIMIT = 40_000
"""Rows of an integer program that HiGHS is given."""


def exflow(traffic: Traffic, machine: Machine, seconds: float = 60.0, starts: int = 12, seed: int = 0) -> Found:
    """Places experts by affinity.

    Args:
        traffic: of routes to learn from.
        machine: where they go.
        seconds: for everything; what is best by then is returned.
        starts: of the search.
        seed: of the starts.

    Raises:
        RosterError: experts that do not divide into the devices.
    """
    began = time.perf_counter()
    machine.check_experts(traffic.experts)
    draw = np.random.default_rng(seed)
    best_LE = _descend(contiguous_devices(traffic, machine), traffic, machine)
    best = objective_of(best_LE, traffic, machine)
    for _ in range(starts):
        if time.perf_counter() - began > seconds / 2:
            break
        device_LE = _chain(random_devices(traffic, machine, draw), traffic, machine)
        value = objective_of(device_LE, traffic, machine)
        if value < best:
            best, best_LE = value, device_LE
    bound = _pairwise_bound(traffic, machine)
    left = seconds - (time.perf_counter() - began)
    if best > bound and _rows(traffic, machine) <= _LIMIT and left > 0:
        proven_LE, proven = _solve(traffic, machine, left)
        bound = max(bound, proven)
        if proven_LE is not None and objective_of(proven_LE, traffic, machine) < best:
            best_LE, best = proven_LE, objective_of(proven_LE, traffic, machine)
    return Found(from_devices(best_LE, machine), best, min(bound, best), time.perf_counter() - began)


def objective_of(device_LE: Ints, traffic: Traffic, machine: Machine) -> float:
    """Mean hops of a step."""
    hops_GG = machine.hops()
    hops_LEE = hops_GG[device_LE[:-1, :, None], device_LE[1:, None, :]]
    return float((traffic.pairs_LEE * hops_LEE).sum() / max(traffic.pairs_LEE.sum(), 1e-12))


def _chain(device_LE: Ints, traffic: Traffic, machine: Machine) -> Ints:
    """From a first layer on, each layer by the one before; then all in turn."""
    device_LE = device_LE.copy()
    for layer in range(1, traffic.layers):
        device_LE[layer] = _assign(_price(device_LE, layer, traffic, machine, after=False), machine)
    return _descend(device_LE, traffic, machine)


def _descend(device_LE: Ints, traffic: Traffic, machine: Machine) -> Ints:
    device_LE = device_LE.copy()
    best = objective_of(device_LE, traffic, machine)
    while True:
        for layer in (*range(traffic.layers), *reversed(range(traffic.layers))):
            device_LE[layer] = _assign(_price(device_LE, layer, traffic, machine), machine)
        value = objective_of(device_LE, traffic, machine)
        if value >= best - 1e-12:
            return device_LE
        best = value


def _price(device_LE: Ints, layer: int, traffic: Traffic, machine: Machine, after: bool = True) -> Floats:
    """Hops that each expert of a layer would cost on each device, [E, G]."""
    hops_GG = machine.hops()
    price_EG = np.zeros((traffic.experts, machine.devices))
    if layer > 0:
        price_EG += traffic.pairs_LEE[layer - 1].T @ hops_GG[device_LE[layer - 1]]
    if after and layer + 1 < traffic.layers:
        price_EG += traffic.pairs_LEE[layer] @ hops_GG[:, device_LE[layer + 1]].T
    return price_EG


def _assign(price_EG: Floats, machine: Machine) -> Ints:
    each = len(price_EG) // machine.devices
    _, slot_E = linear_sum_assignment(np.repeat(price_EG, each, axis=1))
    return np.asarray(slot_E // each, np.int64)


def _pairwise_bound(traffic: Traffic, machine: Machine) -> float:
    """An expert shares its device with so many of the next layer's at most: the heaviest, at best; both ways."""
    each = machine.check_experts(traffic.experts)
    kept = 0.0
    for pairs_EE in traffic.pairs_LEE:
        ways = (pairs_EE, pairs_EE.T)
        kept += min(float(np.sort(way, axis=1)[:, -each:].sum()) for way in ways)
    total = float(traffic.pairs_LEE.sum())
    return max(0.0, total - kept) / max(total, 1e-12)


def _rows(traffic: Traffic, machine: Machine) -> int:
    levels = machine.devices + (machine.nodes if machine.nodes > 1 else 0)
    return int((traffic.pairs_LEE > 0).sum()) * levels


def _solve(traffic: Traffic, machine: Machine, seconds: float) -> tuple[Ints | None, float]:
    """The integer program: (devices or None where time ran out before any, a bound on the objective).

    x[l, e, g]: expert e of layer l is on device g. For each pair that occurs, y is at least x[l, e, g] - x[l + 1, f, g]
    for every device, so 1 where the devices differ, and z the same for nodes.
    """
    L, E, G = traffic.layers, traffic.experts, machine.devices
    layer_P, first_P, second_P = np.nonzero(traffic.pairs_LEE)
    weight_P = traffic.pairs_LEE[layer_P, first_P, second_P] / traffic.pairs_LEE.sum()
    pairs, places = len(weight_P), L * E * G
    groups = [np.arange(G)[:, None]]
    if machine.nodes > 1:
        groups.append(np.arange(G).reshape(machine.nodes, -1))
    variables = places + pairs * len(groups)
    rows, columns, values = [], [], []
    row = 0
    pair_P = np.arange(pairs)
    for level, members in enumerate(groups):
        for devices in members:
            at = row + pair_P
            for device in devices:
                columns += [(layer_P * E + first_P) * G + device, ((layer_P + 1) * E + second_P) * G + device]
                rows += [at, at]
                values += [np.full(pairs, -1.0), np.ones(pairs)]
            columns.append(places + level * pairs + pair_P)
            rows.append(at)
            values.append(np.ones(pairs))
            row += pairs
    apart = coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (row, variables))
    x_LEG = np.arange(places).reshape(L, E, G)
    once = _sums(x_LEG.reshape(L * E, G), variables)
    equal = _sums(x_LEG.transpose(0, 2, 1).reshape(L * G, E), variables)
    lower = np.zeros(variables)
    lower[0] = 1.0  # devices of a node, and nodes, can be renamed: expert 0 of the first layer is on the first
    integral = np.zeros(variables)
    integral[:places] = 1
    solved = milp(
        np.concatenate([np.zeros(places), *[weight_P] * len(groups)]),
        integrality=integral,
        bounds=Bounds(lower, np.ones(variables)),
        constraints=[
            LinearConstraint(apart.tocsr(), 0, np.inf),
            LinearConstraint(once, 1, 1),
            LinearConstraint(equal, E // G, E // G),
        ],
        options={"time_limit": seconds},
    )
    bound = 0.0 if solved.mip_dual_bound is None else float(solved.mip_dual_bound)
    if solved.x is None:
        return None, bound
    return np.asarray(solved.x[:places].reshape(L, E, G).argmax(2), np.int64), bound


def _sums(members: Ints, variables: int) -> coo_array:
    """One row for each row of members: their sum."""
    count, each = members.shape
    at = np.repeat(np.arange(count), each)
    return coo_array((np.ones(members.size), (at, members.ravel())), (count, variables)).tocsr()
