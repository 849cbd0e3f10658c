"""Arrivals: when requests come. Evenly at random, in bursts, or at a rate that wanders. Shape legend: N requests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from roster.errors import RosterError
from roster.lm.records import Matrix


def poisson(count: int, rate: float, rng: np.random.Generator) -> Matrix:
    """Times [N] of a Poisson process.

    Args:
        count: N.
        rate: requests a second.
        rng: dice.

    Raises:
        RosterError: a rate that is not above 0.
    """
    return changing(count, lambda: (rate, np.inf), rng)


def bursts(count: int, calm: tuple[float, float], burst: tuple[float, float], rng: np.random.Generator) -> Matrix:
    """Times [N] of a process that alternates between two rates.

    Args:
        count: N.
        calm, burst: (requests a second, mean seconds that this lasts); how long it lasts is exponential.
        rng: dice.
    """
    phases = [burst, calm]

    def phase() -> tuple[float, float]:
        phases.reverse()
        return phases[0][0], rng.exponential(phases[0][1])

    return changing(count, phase, rng)


def changing(count: int, phase: Callable[[], tuple[float, float]], rng: np.random.Generator) -> Matrix:
    """Times [N] of a process whose rate is constant for a while.

    Args:
        count: N.
        phase: draws (requests a second, seconds that this lasts).
        rng: dice.

    Raises:
        RosterError: a rate that is not above 0.
    """
    times: list[float] = []
    now = end = 0.0
    while len(times) < count:
        rate, seconds = phase()
        if not rate > 0:
            raise RosterError(f"requests must come at a rate above 0, not {rate:g}")
        end += seconds
        # A Poisson process has no memory: what would have come after the phase's end is drawn anew.
        while len(times) < count and (now := now + rng.exponential(1 / rate)) < end:
            times.append(now)
        now = min(now, end)
    return np.array(times)
