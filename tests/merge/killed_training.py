"""Run by `test_trained.py`: merges that train, in child processes that are killed until one comes through.

Arguments: a JSON list of what is merged, each with the folder to write. The first child is killed after its
first step of training, the next ones at a change of the disk, early and late. Prints for
each merge how many children were killed, and whether one of them found steps of training that an earlier one had done.
"""

import json
import os
import signal
import sys
from pathlib import Path

import roster.merge.gates  # noqa: F401  # before the forks, so that no child imports it anew
from roster.merge import merge_models
from roster.weights import kept
from roster.weights.kept import Kept

kept.EVERY = 0.0
half = Kept.half
CHANGES = (3, 40)


def counted(self):
    state, done = half(self)
    if done:
        Path("taken-up").touch()
    return state, done


def killed_at(count):
    """This process's end at its so many-th change of the disk, before it is made."""
    left = [count]

    def counting(real):
        def change(*given, **named):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **named)

        return change

    for name in ("pwrite", "replace", "rename", "unlink"):
        setattr(os, name, counting(getattr(os, name)))


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


Kept.half = counted
for asked in json.loads(sys.argv[1]):
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            if 1 <= killed <= len(CHANGES):
                killed_at(CHANGES[killed - 1])
            merge_models(**asked, progress=kill if killed == 0 else None)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            break
        killed += 1
        if Path(asked["out"]).exists():
            asked["overwrite"] = True  # killed after the swap
    assert status == 0, asked["method"]
    print(killed, int(Path("taken-up").exists()))
    Path("taken-up").unlink(missing_ok=True)
