"""Jobs for the tests of workers: other processes import them from here, without anything heavy."""

import os
import signal
from pathlib import Path


def squared(number):
    return number * number, os.getpid()


def die_once(job):
    """Killed like by the kernel, the first time; (number, a file that says that it has happened)."""
    number, path = job
    if number == 2 and not Path(path).exists():
        Path(path).write_text("was here")
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def die(_job):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(number):
    from roster.errors import RosterError

    if number == 1:
        raise RosterError(f"{number} is nothing that anybody wants")
    return number


def with_gpu(_job):
    import ray

    return ray.get_runtime_context().get_assigned_resources()


def parabola(settings, report):
    """Loss of one setting; the best is 0.3, and what is better is so from the first step."""
    loss = (settings["x"] - 0.3) ** 2
    for step in range(1, 10):
        report(step, loss + 1 / step)
    return loss
