"""Independent jobs on workers: this process, several processes of this machine, or the machines of a Ray cluster.

Covers where jobs run and what happens when a worker dies; not what is kept of them. Whoever asks writes each result
down as it arrives, so that a run that was cut off goes on where it stopped. A job is given to one function wherever
it runs; one whose sums must not depend on the place asks for `one_thread`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from roster.errors import RosterError

LIVES = 3
"""How often workers may die under one job (Ray), or without a job's end between (processes), before all is given up."""
_ALIKE = ("roster-moe", "torch", "transformers", "numpy")
"""Packages of which all machines need the same version, for results not to depend on where a job ran."""

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """Where jobs run.

    Attributes:
        processes: of this machine; with 1, the process that asks.
        ray: address of a Ray cluster to run on instead: `HOST:PORT`, `ray://HOST:PORT`, `auto` for the one that runs on
            this machine, `local` for one that is started here and ends with the run. Its machines need the same
            packages, and see the same files under the same names.
    """

    processes: int = 1
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.ray is not None and self.processes != 1:
            raise RosterError("choose one: processes of this machine, or a Ray cluster")
        if self.processes < 1:
            raise RosterError(f"there must be at least one process, not {self.processes}")

    @property
    def are_elsewhere(self) -> bool:
        """Whether jobs run in other processes than this one."""
        return self.ray is not None or self.processes > 1

    def map(self, work: Callable[[Job], Result], jobs: Sequence[Job], gpus: float = 0) -> Iterator[tuple[int, Result]]:
        """Gives every job to `work`.

        Args:
            work: a function of a module, or `functools.partial` of one: other processes import it by its name.
            jobs: independent of each other; a job whose worker dies is given to another one, from its beginning.
            gpus: GPUs that a job needs; a Ray cluster places jobs by it.

        Yields:
            (place of the job in `jobs`, result), as they end.

        Raises:
            RosterError: Ray is missing, no cluster answers, a machine has other versions, or workers keep dying.
            Exception: what `work` raised; jobs that wait are dropped then.
        """
        if not jobs:
            return iter(())
        if self.ray is not None:
            return _on_ray(work, jobs, self.ray, gpus)
        if self.processes > 1:
            return _on_processes(work, jobs, min(self.processes, len(jobs)))
        return ((place, work(job)) for place, job in enumerate(jobs))


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: its sums do not depend on the machine's cores, and processes side by side do not wait."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _on_processes(work: Callable[[Job], Result], jobs: Sequence[Job], count: int) -> Iterator[tuple[int, Result]]:
    left, deaths = dict(enumerate(jobs)), 0
    while left:
        # A fresh interpreter each: a forked one would share torch's threads, which do not survive it.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(count, len(left)), spawn, _calm) as pool:
            running = {pool.submit(work, job): place for place, job in left.items()}
            died = False
            try:
                while running:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        place = running.pop(future)
                        if isinstance(future.exception(), BrokenProcessPool):
                            died = True  # and with it the pool, though not what had ended before
                            continue
                        result = future.result()
                        del left[place]
                        deaths = 0
                        yield place, result
            finally:
                pool.shutdown(cancel_futures=True)
        deaths += died
        if deaths == LIVES:
            raise RosterError(_dead("processes of this machine", len(left)))


def _calm() -> None:
    """Before a process of the pool does anything: one thread, for what counts them when it is imported."""
    os.environ["OMP_NUM_THREADS"] = "1"


def _dead(what: str, left: int) -> str:
    return (
        f"{what} died {LIVES} times in a row under the jobs that are left ({left}); out of memory, perhaps: what was "
        "done is kept, and the same command goes on from there"
    )


def _on_ray(
    work: Callable[[Job], Result], jobs: Sequence[Job], address: str, gpus: float
) -> Iterator[tuple[int, Result]]:
    ray, is_own = _connected(address)
    crashes = ray.exceptions
    deaths = (crashes.WorkerCrashedError, crashes.NodeDiedError, crashes.OutOfMemoryError)
    done = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=LIVES - 1)(_done)
    here, shared = _versions(), ray.put(work)  # once for each machine: a `partial` may carry a lot
    running = {done.remote(here, shared, job): place for place, job in enumerate(jobs)}
    try:
        while running:
            for reference in ray.wait([*running], num_returns=1)[0]:
                place = running.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except deaths as error:
                    raise RosterError(_dead("workers of the Ray cluster", len(running) + 1)) from error
                yield place, result
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if is_own:
            ray.shutdown()


def _connected(address: str) -> tuple[Any, bool]:
    """Ray, joined to a cluster; and whether it was joined here, or by the program around."""
    try:
        import ray
    except ImportError:
        raise RosterError("Ray is missing: pip install 'roster-moe[ray]'") from None
    if ray.is_initialized():
        return ray, False
    _reached(address)
    # Ray sets OMP_NUM_THREADS=1 for a task of one processor by itself.
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise _nobody(address, error) from None
    return ray, True


def _reached(address: str) -> None:
    """Whether anybody listens: Ray itself would wait for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise RosterError(f"{address!r} is no address of a Ray cluster: HOST:PORT, ray://HOST:PORT, auto or local")
    try:
        socket.create_connection((host, int(port)), 10).close()
    except OSError as error:
        raise _nobody(address, error) from None


def _nobody(address: str, error: Exception) -> RosterError:
    said = " ".join(str(error).split())
    return RosterError(f"no Ray cluster answers at {address!r}; `ray start --head` starts one: {said}")


def _versions() -> dict[str, str]:
    found = {}
    for name in _ALIKE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _done(wanted: dict[str, str], work: Callable[[Job], Result], job: Job) -> Result:
    """One job on a machine of a cluster."""
    here = _versions()
    other = [f"{name} {here[name]} instead of {number}" for name, number in wanted.items() if here[name] != number]
    if other:
        raise RosterError(f"the machine {platform.node()!r} of the Ray cluster has {', '.join(other)}")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return work(job)
