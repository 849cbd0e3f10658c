"""Which back end runs: measured at the first call with each kind of input, remembered, and overridable.

with roster.dispatch.use("blocks"):
    ...
ROSTER_DISPATCH=grouped_mm python train.py
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from roster.errors import RosterError, nearest

BACKENDS = ("blocks", "grouped_mm", "triton", "reference")
VARIABLE = "ROSTER_DISPATCH"
TOO_SMALL = 1 << 27  # multiply-adds; below, a measurement costs more than it could ever save

TURNS = 5  # of a measurement, of which the first only warms up
FEWEST = 3  # after a single timed turn the slower back end was chosen once in seven processes
PATIENCE = 2.0  # seconds after which a measurement makes do with the turns it has had
MARGIN = 0.97  # what another back end may take at most of the default's time to be preferred

_forced: str | None = os.environ.get(VARIABLE) or None  # plain globals: a compiler can guard them
_measured: dict[Hashable, str] = {}


@contextmanager
def use(backend: str) -> Iterator[None]:
    """Makes every grouped matmul of this process run on one back end, until the end of the block.

    Args:
        backend: "blocks", "grouped_mm", "triton" or "reference".

    Raises:
        RosterError: there is no such back end.
    """
    global _forced
    before, _forced = _forced, _known(backend, "roster.dispatch.use")
    try:
        yield
    finally:
        _forced = before


def forced() -> str | None:
    """The back end that `use` or the environment asks for; None when measurement decides."""
    return None if _forced is None else _known(_forced, VARIABLE)


def measured() -> Mapping[Hashable, str]:
    """What has been chosen so far in this process, by kind of input."""
    return dict(_measured)


def forget() -> None:
    """Measures anew from now on."""
    _measured.clear()


def fastest(key: Hashable, work: int, trials: Mapping[str, Callable[[], object]], device: torch.device) -> str:
    """The name of the quickest trial; the first one where measuring is not worth it or not possible.

    Args:
        key: kind of input; a second call with the same key costs a look-up.
        work: multiply-adds of one call.
        trials: runs of each back end, the default first. They are made on a thread of their own, so that no hook,
            autocast or grad mode of the caller's is at work in them.
        device: where they run.
    """
    default = next(iter(trials))
    if len(trials) == 1 or work < TOO_SMALL or torch.are_deterministic_algorithms_enabled():
        return default
    if (known := _measured.get(key)) is not None:
        return known
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return default
    seconds: dict[str, float] = {}
    threads = torch.get_num_threads()

    def measure() -> None:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        for turn in range(TURNS):
            if turn >= FEWEST and time.perf_counter() - began > PATIENCE:
                break
            for name, run in trials.items():
                taken = _seconds(run, device)
                if turn:  # the first turn warms up
                    seconds[name] = min(taken, seconds.get(name, taken))

    thread = threading.Thread(target=measure, name="roster-dispatch")
    thread.start()
    thread.join()
    if len(seconds) < len(trials):  # a trial failed, as its thread has said
        return default
    best = min(seconds, key=seconds.__getitem__)
    _measured[key] = best if seconds[best] < MARGIN * seconds[default] else default
    return _measured[key]


def key_of(kind: str, x: Tensor, stacks: tuple[Tensor, ...], rows: int, grad: bool) -> Hashable:
    """Kind of input: numbers of rows within a factor of two are alike."""
    shapes = tuple(tuple(each.shape) for each in stacks)
    return kind, x.device, x.dtype, shapes, rows.bit_length(), grad


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    # One thread's own time does not count what other programs did meanwhile.
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def _known(name: str, where: str) -> str:
    if name not in BACKENDS:
        raise RosterError(f"{where}: there is no dispatch back end {name!r}; {nearest(name, BACKENDS)}")
    return name
