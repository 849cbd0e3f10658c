"""MoETuner: groups of experts with even loads first, then devices for the groups, so that no pair of them is flooded.

Program 1, layer by layer: experts into G groups of equal size with the least sum over groups of |load - mean load|.
Program 2: in each layer a bijection from groups to devices with the least sum over layers of the *largest* traffic
between two devices, weighed by bandwidth: the slowest pair is what an exchange waits for. Each is solved by descent on
swaps from a greedy start; what an integer program can prove in time is given to HiGHS.

Source: Go and Mahajan, 2025, "MoETuner: Optimized Mixture of Expert Serving with Balanced Expert Placement and
Token Routing", arXiv:2502.06643.
Differences: groups hold equally many experts in every layer, as engines with fixed slots need; the source asks for
equal counts over all layers together. Its gap, 2.5 %, is where program 1 stops looking.

Shape legend: L layers, E experts, G groups or devices.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, milp  # type: ignore[import-untyped]
from scipy.sparse import csr_array, lil_array  # type: ignore[import-untyped]

from roster.place.machine import Machine
from roster.place.placement import Found, from_devices
from roster.place.traffic import Traffic

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
GAP = 0.025
_LIMIT = 4000
"""Products of two choices that program 2 may have for HiGHS."""


def moetuner(traffic: Traffic, machine: Machine, seconds: float = 120.0, starts: int = 8, seed: int = 0) -> Found:
    """Places experts by load and by the busiest pair; the objective is that of program 2, in seconds per byte.

    Args:
        traffic: of routes to learn from.
        machine: where they go.
        seconds: for everything.
        starts: of program 2's search.
        seed: of the starts.

    Raises:
        RosterError: experts that do not divide into the devices.
    """
    began = time.perf_counter()
    machine.check_experts(traffic.experts)
    group_LE = np.zeros((traffic.layers, traffic.experts), np.int64)
    for layer, load_E in enumerate(traffic.load_LE):
        left = seconds / 2 - (time.perf_counter() - began)
        group_LE[layer], _ = balance(load_E, machine.devices, max(0.0, left / (traffic.layers - layer)))
    flow_LGG = between_groups(group_LE, traffic, machine.devices)
    left = seconds - (time.perf_counter() - began)
    device_LG, bound = assign_groups(flow_LGG, machine, left, starts, seed)
    device_LE = np.take_along_axis(device_LG, group_LE, axis=1)
    best = largest_pairs(flow_LGG, device_LG, machine)
    return Found(from_devices(device_LE, machine), best, min(bound, best), time.perf_counter() - began)


# ---- program 1 -----------------------------------------------------------------------------------------------


def balance(load_E: Floats, groups: int, seconds: float) -> tuple[Ints, float]:
    """(the group of each expert, the sum of deviations from the mean load): equal sizes, loads as even as can be."""
    group_E = _even(load_E, groups)
    value = deviation(load_E, group_E, groups)
    if value > GAP * load_E.sum() / groups and seconds > 0.05:
        solved_E = _solve_balance(load_E, groups, seconds)
        if solved_E is not None and deviation(load_E, solved_E, groups) < value:
            return solved_E, deviation(load_E, solved_E, groups)
    return group_E, value


def deviation(load_E: Floats, group_E: Ints, groups: int) -> float:
    """Sum over groups of |load - mean load|."""
    load_G = np.bincount(group_E, load_E, minlength=groups)
    return float(np.abs(load_G - load_E.sum() / groups).sum())


def _even(load_E: Floats, groups: int) -> Ints:
    """The heaviest first to the lightest group with room; then swaps of two experts while one helps."""
    each = len(load_E) // groups
    group_E = np.zeros(len(load_E), np.int64)
    load_G, count_G = np.zeros(groups), np.zeros(groups, np.int64)
    for expert in np.argsort(-load_E, kind="stable"):
        group = int(np.argmin(np.where(count_G < each, load_G, np.inf)))
        group_E[expert] = group
        load_G[group] += load_E[expert]
        count_G[group] += 1
    mean = load_E.sum() / groups
    while True:
        off_G = load_G - mean
        # Of every two experts: what swapping them would change.
        give_EE = load_E[:, None] - load_E[None]
        a_EE, b_EE = off_G[group_E][:, None], off_G[group_E][None]
        gain_EE = np.abs(a_EE) + np.abs(b_EE) - np.abs(a_EE - give_EE) - np.abs(b_EE + give_EE)
        gain_EE[group_E[:, None] == group_E[None]] = 0.0
        first, second = np.unravel_index(int(gain_EE.argmax()), gain_EE.shape)
        if gain_EE[first, second] <= 1e-9 * max(mean, 1.0):
            return group_E
        moved = load_E[first] - load_E[second]
        load_G[group_E[first]] -= moved
        load_G[group_E[second]] += moved
        group_E[first], group_E[second] = group_E[second], group_E[first]


def _solve_balance(load_E: Floats, groups: int, seconds: float) -> Ints | None:
    E, G = len(load_E), groups
    variables = E * G + G  # x[e, g], and each group's deviation
    mean = load_E.sum() / G
    once, equal = lil_array((E, variables)), lil_array((G, variables))
    above, below = lil_array((G, variables)), lil_array((G, variables))
    for expert in range(E):
        once[expert, expert * G : (expert + 1) * G] = 1
    for group in range(G):
        for expert in range(E):
            equal[group, expert * G + group] = 1
            above[group, expert * G + group] = -load_E[expert]
            below[group, expert * G + group] = load_E[expert]
        above[group, E * G + group] = below[group, E * G + group] = 1
    integral = np.concatenate([np.ones(E * G), np.zeros(G)])
    upper = np.concatenate([np.ones(E * G), np.full(G, np.inf)])
    lower = np.zeros(variables)
    lower[int(np.argmax(load_E)) * G] = 1  # groups can be renamed
    solved = milp(
        np.concatenate([np.zeros(E * G), np.ones(G)]),
        integrality=integral,
        bounds=Bounds(lower, upper),
        constraints=[
            LinearConstraint(csr_array(once), 1, 1),
            LinearConstraint(csr_array(equal), E // G, E // G),
            LinearConstraint(csr_array(above), -mean, np.inf),
            LinearConstraint(csr_array(below), mean, np.inf),
        ],
        options={"time_limit": seconds},
    )
    return None if solved.x is None else np.asarray(solved.x[: E * G].reshape(E, G).argmax(1), np.int64)


# ---- program 2 -----------------------------------------------------------------------------------------------


def between_groups(group_LE: Ints, traffic: Traffic, groups: int) -> Floats:
    """Tokens from group to group between each layer and the next, [L - 1, G, G]."""
    member_LEG = np.eye(groups)[group_LE]
    flow_LGG: Floats = np.einsum("leg,lef,lfh->lgh", member_LEG[:-1], traffic.pairs_LEE, member_LEG[1:], optimize=True)
    return flow_LGG


def largest_pairs(flow_LGG: Floats, device_LG: Ints, machine: Machine) -> float:
    """Sum over steps of the largest (tokens x seconds per byte) between two devices."""
    price_GG = machine.seconds_per_byte()
    return sum(_largest(flow_LGG, device_LG, price_GG, step) for step in range(len(flow_LGG)))


def _largest(flow_LGG: Floats, device_LG: Ints, price_GG: Floats, step: int) -> float:
    return float((flow_LGG[step] * price_GG[np.ix_(device_LG[step], device_LG[step + 1])]).max())


def assign_groups(flow_LGG: Floats, machine: Machine, seconds: float, starts: int, seed: int) -> tuple[Ints, float]:
    """(the device of each group in each layer, a bound on the objective)."""
    began = time.perf_counter()
    draw = np.random.default_rng(seed)
    L, G = len(flow_LGG) + 1, machine.devices
    best_LG, best = np.tile(np.arange(G), (L, 1)), np.inf
    for start in range(max(1, starts)):
        device_LG = np.stack([draw.permutation(G) for _ in range(L)]) if start else _by_affinity(flow_LGG, machine)
        value = _swap(flow_LGG, device_LG, machine, began + seconds / 2)
        if value < best:
            best_LG, best = device_LG, value
        if time.perf_counter() - began > seconds / 2:
            break
    bound = _lower(flow_LGG, machine)
    left = seconds - (time.perf_counter() - began)
    if best > bound and (L - 1) * G**4 <= _LIMIT and left > 0:
        solved_LG, proven = _solve_assignment(flow_LGG, machine, left)
        bound = max(bound, proven)
        if solved_LG is not None and largest_pairs(flow_LGG, solved_LG, machine) < best:
            best_LG = solved_LG
    return best_LG, bound


def _by_affinity(flow_LGG: Floats, machine: Machine) -> Ints:
    """Each layer's groups to the devices that send them most."""
    devices = [np.arange(machine.devices)]
    for flow_GG in flow_LGG:
        by_device_GG = np.zeros_like(flow_GG)
        by_device_GG[devices[-1]] = flow_GG
        _, column = linear_sum_assignment(-by_device_GG.T)
        devices.append(np.asarray(column, np.int64))
    return np.stack(devices)


def _swap(flow_LGG: Floats, device_LG: Ints, machine: Machine, until: float) -> float:
    """In place: swaps of two groups of a layer while one helps."""
    price_GG = machine.seconds_per_byte()
    L, G = device_LG.shape
    worst = [_largest(flow_LGG, device_LG, price_GG, step) for step in range(L - 1)]
    improved = True
    while improved and time.perf_counter() < until:
        improved = False
        for layer in range(L):
            steps = [step for step in (layer - 1, layer) if 0 <= step < L - 1]
            for first in range(G):
                for second in range(first + 1, G):
                    device_LG[layer, [first, second]] = device_LG[layer, [second, first]]
                    new = [_largest(flow_LGG, device_LG, price_GG, step) for step in steps]
                    if sum(new) < sum(worst[step] for step in steps) * (1 - 1e-9):
                        for step, value in zip(steps, new, strict=True):
                            worst[step] = value
                        improved = True
                    else:
                        device_LG[layer, [first, second]] = device_LG[layer, [second, first]]
    return sum(worst)


def _lower(flow_LGG: Floats, machine: Machine) -> float:
    """At best the tokens that no bijection keeps on one device are spread evenly over the pairs of devices."""
    price_GG = machine.seconds_per_byte()
    capacity = float((1.0 / price_GG[price_GG > 0]).sum()) if machine.devices > 1 else np.inf
    bound = 0.0
    for flow_GG in flow_LGG:
        rows, columns = linear_sum_assignment(-flow_GG)
        bound += float(flow_GG.sum() - flow_GG[rows, columns].sum()) / capacity
    return bound


def _solve_assignment(flow_LGG: Floats, machine: Machine, seconds: float) -> tuple[Ints | None, float]:
    """p[l, c, g]: group c of layer l is on device g; w: two such choices at once; m[l]: the largest pair of a step."""
    price_GG = machine.seconds_per_byte()
    scale = 1.0 / max(float(price_GG.max() * flow_LGG.max()), 1e-300)  # numbers near 1, for the solver's tolerances
    L, G = len(flow_LGG) + 1, machine.devices
    places = L * G * G
    products = [
        (step, c, g, d, h)
        for step in range(L - 1)
        for c in range(G)
        for g in range(G)
        for d in range(G)
        for h in range(G)
        if g != h and flow_LGG[step, c, d] > 0
    ]
    variables = places + len(products) + L - 1
    both = lil_array((len(products), variables))
    peak = lil_array(((L - 1) * G * G, variables))
    for number, (step, c, g, d, h) in enumerate(products):
        both[number, places + number] = 1
        both[number, (step * G + c) * G + g] = -1
        both[number, ((step + 1) * G + d) * G + h] = -1
        peak[(step * G + g) * G + h, places + number] = -flow_LGG[step, c, d] * price_GG[g, h] * scale
    for step in range(L - 1):
        for pair in range(G * G):
            peak[step * G * G + pair, places + len(products) + step] = 1
    p_LGG = np.arange(places).reshape(L, G, G)
    once = lil_array((2 * L * G, variables))
    for row, members in enumerate([*p_LGG.reshape(-1, G), *p_LGG.transpose(0, 2, 1).reshape(-1, G)]):
        once[row, members] = 1
    upper = np.ones(variables)
    upper[places + len(products) :] = np.inf
    solved = milp(
        np.concatenate([np.zeros(places + len(products)), np.ones(L - 1)]),
        integrality=np.concatenate([np.ones(places), np.zeros(variables - places)]),
        bounds=Bounds(np.zeros(variables), upper),
        constraints=[
            LinearConstraint(csr_array(both), -1, np.inf),
            LinearConstraint(csr_array(peak), 0, np.inf),
            LinearConstraint(csr_array(once), 1, 1),
        ],
        options={"time_limit": seconds},
    )
    bound = 0.0 if solved.mip_dual_bound is None else float(solved.mip_dual_bound) / scale
    return (None if solved.x is None else np.asarray(solved.x[:places].reshape(L, G, G).argmax(2), np.int64)), bound
