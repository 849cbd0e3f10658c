"""Routed models that two processes share: what they save together is what one process has."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import roster
import tiny
from roster.adapters.attach import attach
from roster.moe import replace
from roster.recipes import RECIPES

WORKER = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
sys.path.insert(0, sys.argv[3])
from adapters.test_two_processes import made

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
mesh = distributed.device_mesh.init_device_mesh("cpu", (2,))
for kind in ("adapters", "blocks"):
    model = made(kind)
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.save_pretrained(folder / kind, is_main_process=rank == 0)
    distributed.barrier()
distributed.destroy_process_group()
"""


def made(kind):
    torch.manual_seed(0)
    if kind == "blocks":
        return replace(tiny.base(), "loss-free-balancing").eval()
    model = attach(tiny.base(), tiny.library(tiny.base()), RECIPES["mov-molora"](), recipe="mov-molora").eval()
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    (folder / "worker.py").write_text(WORKER)
    tests = str(Path(__file__).parents[1])
    start = [sys.executable, folder / "worker.py"]
    workers = [
        subprocess.Popen([*start, str(rank), folder, tests], stderr=subprocess.PIPE, text=True) for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors
    return folder


@pytest.mark.parametrize("kind", ["adapters", "blocks"])
def test_a_sharded_model_is_saved_whole(kind, saved):
    again, one = roster.load(saved / kind), made(kind)
    state = again.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(state[name], tensor), name
    ids = torch.stack(tiny.tokens(6, 6))
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, one(input_ids=ids).logits)


@pytest.mark.parametrize("kind", ["adapters", "blocks"])
def test_tensor_parallel_models_are_refused_by_name(kind):
    """transformers marks them with the number of parts."""
    model = tiny.base()
    model._tp_size = 2
    library = tiny.library(tiny.base())
    change = {
        "blocks": lambda: replace(model, "gshard-top2"),
        "adapters": lambda: attach(model, library, RECIPES["uniform"](), recipe="uniform"),
    }[kind]
    with pytest.raises(roster.RosterError, match=r"split within its layers \(tp_plan=\)"):
        change()


BLIND = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
sys.path.insert(0, sys.argv[2])
import tiny
from roster.errors import RosterError
from roster.library import fingerprint
from roster.library.fingerprint import digest

distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
plain = digest(fingerprint(tiny.base()))
model = tiny.base()
fully_shard(model, mesh=mesh)
print(digest(fingerprint(model)) == plain, len(fingerprint(model)))
distributed.destroy_process_group()
"""


def test_a_sharded_base_is_told_by_all_its_tensors(tmp_path):
    """It had no fingerprint, so that a library of another base was accepted without a word."""
    (tmp_path / "blind.py").write_text(BLIND)
    tests = str(Path(__file__).parents[1])
    run = subprocess.run([sys.executable, tmp_path / "blind.py", tmp_path, tests], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    same, count = run.stdout.split()
    assert same == "True"
    assert int(count) > 10
