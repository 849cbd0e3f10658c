"""Run by `test_run.py`: a merge in a child process is killed at random moments until one comes through.

Arguments: the config, the folder to write, a seed. Prints how many children were killed, and how many tensors the last
one found finished.
"""

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

from roster.errors import RosterError
from roster.merge import plan_merge, read_config
from roster.weights import BLOCK, run
from roster.weights.writer import Writer

config, out, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
moments = random.Random(seed)
killed, found = 0, 0
while True:
    child = os.fork()
    if child == 0:
        plan = plan_merge(read_config(config), 300_000)
        # Slow enough that the moments fall into the work: between tensors, and (by the size of a piece) within them.
        run(plan, out, piece=BLOCK, progress=lambda *_: time.sleep(0.01))
        os._exit(0)
    time.sleep(moments.uniform(0.005, 0.035) * 1.15**killed)  # a machine that others keep busy gets there too
    # A child that was ready before the kill has left its folder; one that was not is killed.
    if os.waitpid(child, os.WNOHANG)[0] == 0:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            killed += 1
    if out.exists():
        with contextlib.suppress(RosterError):  # whole already; what a kill after the swap left behind is cleared away
            Writer(plan_merge(read_config(config), 300_000), out)
        break
    if (out.parent / f".{out.name}.partial" / ".roster-journal").exists():
        with Writer(plan_merge(read_config(config), 300_000), out) as writer:
            found = max(found, len(writer.done))
print(killed, found)
