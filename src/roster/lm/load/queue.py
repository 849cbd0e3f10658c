"""Queue: requests that arrive at random and wait for servers. What routing by load is tried out on.

Times of arrival are `arrivals`; instances that serve many requests at once `batching`.

Every server takes its requests one by one, first come, first served. A scheduler sees the state at an arrival and names
the server. Deterministic given the arrivals and the seconds of service.

Shape legend: N requests in order of arrival, M servers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.records import Matrix


@dataclass(frozen=True)
class Load:
    """What a scheduler knows when a request arrives.

    Attributes:
        count_M: requests at every server, the one in service among them.
        work_M: seconds until every server is free; real ones, which only a simulator knows.
    """

    count_M: NDArray[np.int64]
    work_M: Matrix


Scheduler = Callable[[int, Load], int]
"""The server for a request (by its position), given the load."""


@dataclass(frozen=True)
class Served:
    """What happened.

    Attributes:
        server_N: who served each request.
        delay_N: seconds from arrival to completion.
    """

    server_N: NDArray[np.int64]
    delay_N: Matrix


def serve(arrival_N: Matrix, seconds_NM: Matrix, scheduler: Scheduler) -> Served:
    """Runs the queue.

    Args:
        arrival_N: times, not falling.
        seconds_NM: how long each request would take at each server.
        scheduler: names the server.

    Raises:
        RosterError: arrivals that fall or do not match, or service that takes no time.
    """
    if len(arrival_N) != len(seconds_NM) or (np.diff(arrival_N) < 0).any():
        raise RosterError("arrivals must be in order, one per request")
    if not (seconds_NM > 0).all():
        raise RosterError("every request must take more than 0 seconds at every server")
    servers = seconds_NM.shape[1]
    free_M = np.zeros(servers)
    ends: list[deque[float]] = [deque() for _ in range(servers)]
    server_N, delay_N = np.empty(len(arrival_N), dtype=np.int64), np.empty(len(arrival_N))
    for n, now in enumerate(arrival_N):
        for waiting in ends:
            while waiting and waiting[0] <= now:
                waiting.popleft()
        count_M = np.array([len(waiting) for waiting in ends])
        m = scheduler(n, Load(count_M, np.maximum(free_M - now, 0.0)))
        free_M[m] = max(free_M[m], now) + seconds_NM[n, m]
        ends[m].append(float(free_M[m]))
        server_N[n], delay_N[n] = m, free_M[m] - now
    return Served(server_N, delay_N)
