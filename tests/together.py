"""Several processes for one test: forked from one that has imported everything, so that imports are paid for once."""

import subprocess
import sys
from pathlib import Path

_STARTER = """
import os, sys, traceback, warnings
warnings.simplefilter("ignore")
from importlib import import_module
from pathlib import Path
import torch
from torch import distributed

torch.set_num_threads(1)  # a pool of threads does not survive a fork
tests, module, name, folder, *worlds = sys.argv[1:]
sys.path.insert(0, tests)
work = getattr(import_module(module), name)


def run(rank, world):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    where = f"file://{folder}/store-{world}"
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=world)
    work(rank, world, Path(folder))
    distributed.destroy_process_group()


for world in map(int, worlds):
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            try:
                run(rank, world)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        children.append(child)
    failed = 0
    for _ in children:
        child, status = os.wait()
        if status and not failed:
            failed = status
            for other in children:
                if other != child:
                    try:
                        os.kill(other, 9)
                    except ProcessLookupError:
                        pass
    if failed:
        sys.exit(1)
"""


def together(module, name, folder, *worlds, timeout=240):
    """Calls `module.name(rank, world, folder)` in each of `world` gloo processes, for one world after the other.

    Args:
        module: of the tests, "moe.test_spread".
        name: of a function there.
        folder: for the processes to meet and to leave their results in.
        worlds: numbers of processes.
        timeout: seconds.
    """
    tests = str(Path(__file__).parent)
    start = [sys.executable, "-c", _STARTER, tests, module, name, str(folder), *map(str, worlds)]
    done = subprocess.run(start, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
