"""Bases whose layers are on several devices. This machine may have one: tensors are fakes that know where they would
be, and refuse to be computed with others; accelerate's own hooks move them between the layers.

Every recipe that routes among adapters is tried with what it needs: the tasks of the rows (as the caller has them, on
the CPU) where it routes by task, gate vectors beside the adapters for phatgoose, a tokenizer and example prompts for
lora-tle, which reads them from the base before it is spread.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from roster.recipes import RECIPES

SLUGS = [slug for slug, recipe in RECIPES.items() if recipe.kind == "mixture" and recipe(None).causal]

WORKER = """
import sys, tempfile, warnings
from pathlib import Path
warnings.filterwarnings("ignore")
import torch
import tiny
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from roster.adapters.attach import attach
from roster.recipes import RECIPES
from roster.score import TaskTable
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("second")
PARTS = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1", "model.norm", "lm_head")

def device(name):
    return "second:1" if "layers.1" in name or name in ("model.norm", "lm_head") else "second:0"

def bincount(x, minlength):
    return torch.zeros(minlength, dtype=torch.long, device=x.device).index_add(0, x, torch.ones_like(x))

# What would look at values, which fakes have not: the length of bincount's result, and whether ids are in range.
torch.bincount = bincount
TaskTable.check = lambda self, task_ids_B: None

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
        given = {}
        if hasattr(model, "roster") and model.roster.plan.routes_by_task:
            given["task_ids"] = on(mode, torch.zeros(2, dtype=torch.long), "cpu")
        return str(model(input_ids=ids, use_cache=False, **given).logits.device)

print("base", answer(tiny.base()))
library = tiny.library(tiny.base(), folder=Path(tempfile.mkdtemp()))
for slug in sys.argv[1:]:
    try:
        model = attach(tiny.base(), library, RECIPES[slug](), recipe=slug, tokenizer=tiny.Tokenizer())
        print(slug, answer(model.eval()))
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
