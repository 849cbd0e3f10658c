"""Bases whose layers are on several devices. This machine may have one: tensors are fakes that know where they would
be, and refuse to be computed with others; accelerate's own hooks move them between the layers."""

import subprocess
import sys
from pathlib import Path

import pytest

SLUGS = ("arrow-mbc", "mov-molora", "smear", "uniform", "x-lora")

WORKER = """
import sys, warnings
warnings.filterwarnings("ignore")
import torch
import tiny
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from roster.adapters.attach import attach
from roster.recipes import RECIPES
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("second")
PARTS = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1", "model.norm", "lm_head")

def device(name):
    return "second:1" if "layers.1" in name or name in ("model.norm", "lm_head") else "second:0"

def on(mode, tensor, where):
    return FakeTensor(mode, torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"), torch.device(where))

def answer(model):
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        for name, module in model.named_modules():
            for table in (module._parameters, module._buffers):
                for key, tensor in table.items():
                    if tensor is not None:
                        moved = on(mode, tensor, device(name))
                        parameter = table is module._parameters
                        table[key] = torch.nn.Parameter(moved, requires_grad=False) if parameter else moved
    for name in PARTS:
        hook = AlignDevicesHook(execution_device=device(name), place_submodules=False)
        add_hook_to_module(model.get_submodule(name), hook, append=True)
    with mode, torch.no_grad():
        ids = on(mode, torch.zeros(2, 6, dtype=torch.long), "second:0")
        return str(model(input_ids=ids, use_cache=False).logits.device)

print("base", answer(tiny.base()))
for slug in sys.argv[1:]:
    try:
        print(slug, answer(attach(tiny.base(), tiny.library(tiny.base()), RECIPES[slug](), recipe=slug).eval()))
    except Exception as error:
        print(slug, type(error).__name__, str(error).strip().splitlines()[0])
"""


@pytest.fixture(scope="module")
def answered():
    """What every recipe did, in a process of its own: the second device is registered for good."""
    run = subprocess.run(
        [sys.executable, "-c", WORKER, *SLUGS], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert run.returncode == 0, run.stderr
    return dict(line.split(" ", 1) for line in run.stdout.splitlines())


@pytest.mark.parametrize("slug", ["base", *SLUGS])
def test_two_devices(slug, answered):
    """The base alone is the control: were it to fail, nothing would be said of the recipes."""
    assert answered[slug] == "second:1"
