"""The methods that mergekit 0.1.5 has too, against it, in float32; random ones (DARE, DELLA) by the same numbers."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from roster.merge import merge_tensors
from roster.merge.random import RANGE, draws

PYTHON = Path(os.environ.get("ROSTER_MERGEKIT", ".venv-mergekit")) / "bin" / "python"
# name: (method, whether there is a base, how many models, settings of both, settings of ours alone)
CASES = {
    "linear": ("linear", False, 3, {"weight": [1, 2, 0.5]}, {}),
    "linear, added": ("linear", False, 3, {"weight": [1, 2, 0.5], "normalize": False}, {}),
    "slerp": ("slerp", True, 1, {"t": 0.3}, {}),
    "nuslerp": ("nuslerp", True, 2, {"weight": [1, 3]}, {}),
    "nuslerp, no base": ("nuslerp", False, 2, {"weight": [1, 3]}, {}),
    "nuslerp, rows": ("nuslerp", True, 2, {"weight": [1, 3], "nuslerp_flatten": False}, {}),
    "nuslerp, columns": (
        "nuslerp", True, 2, {"weight": [1, 3], "nuslerp_flatten": False, "nuslerp_row_wise": True}, {}
    ),
    "task arithmetic": ("task_arithmetic", True, 3, {"weight": [1, -1, 0.5], "lambda": 0.7}, {}),
    "task arithmetic, normalized": ("task_arithmetic", True, 3, {"weight": [1, 2, 0.5], "normalize": True}, {}),
    "ties": ("ties", True, 3, {"weight": [1, 2, 0.5], "density": [0.2, 0.5, 1]}, {"trim": "tensor"}),
    "ties, rescaled": (
        "ties", True, 3, {"weight": [1, 2, 0.5], "density": 0.4, "rescale": True, "lambda": 1.3}, {"trim": "tensor"}
    ),
    "ties, added": ("ties", True, 3, {"weight": [1, -2, 1], "density": 0.4, "normalize": False}, {"trim": "tensor"}),
    "breadcrumbs": ("breadcrumbs", True, 3, {"weight": [1, 2, 0.5], "density": 0.4, "gamma": 0.05}, {}),
    "breadcrumbs, dense": ("breadcrumbs", True, 3, {"weight": [1, 2, 0.5], "density": 0.97, "gamma": 0.05}, {}),
    "breadcrumbs_ties": ("breadcrumbs_ties", True, 3, {"weight": 1, "density": 0.4, "rescale": True}, {}),
    "model_stock": ("model_stock", True, 3, {}, {}),
    "model_stock, rows": ("model_stock", True, 3, {"filter_wise": True}, {}),
    "karcher": ("karcher", False, 3, {}, {}),
    "sce": ("sce", True, 3, {}, {}),
    "sce, selected": ("sce", True, 3, {"select_topk": 0.3}, {}),
    "passthrough": ("passthrough", False, 1, {"scale": 0.7}, {}),
    "dare, all kept": ("dare_ties", True, 3, {"weight": [1, 2, 0.5], "density": 1}, {}),
    "della, all kept": ("della", True, 3, {"weight": [1, 2, 0.5], "density": 1}, {}),
}  # fmt: skip
# The same for methods that draw; mergekit is given roster's uniform numbers, and compares them with its probabilities.
DRAWN = {
    "dare_linear": (
        "dare_linear", True, 3, {"weight": [1, -2, 0.5], "density": [0.2, 0.5, 0.9]}, {"scale_to": "norm"}
    ),
    "dare_linear, not rescaled": (
        "dare_linear", True, 3, {"weight": [1, 2, 0.5], "density": 0.3, "rescale": False, "lambda": 0.7}, {}
    ),
    "dare_ties": ("dare_ties", True, 3, {"weight": [1, 2, 0.5], "density": [0.2, 0.5, 0.9]}, {"scale_to": "norm"}),
    "dare_ties, normalized": (
        "dare_ties", True, 3, {"weight": [1, 2, 0.5], "density": 0.6, "normalize": True}, {"scale_to": "norm"}
    ),
    "della_linear": (
        "della_linear", True, 3, {"weight": [1, -2, 0.5], "density": [0.3, 0.5, 0.7], "epsilon": 0.25}, {}
    ),
    "della_linear, not rescaled": (
        "della_linear", True, 3, {"weight": [1, 2, 0.5], "density": 0.4, "epsilon": 0.1, "rescale": False}, {}
    ),
    "della": ("della", True, 3, {"weight": [1, 2, 0.5], "density": [0.3, 0.5, 0.7], "epsilon": 0.25}, {}),
    "della, normalized": (
        "della", True, 3, {"weight": [1, 2, 0.5], "density": 0.5, "epsilon": 0.4, "normalize": True}, {}
    ),
}  # fmt: skip
TOLERANCE = 2e-5
"""Of entries of size 1; the largest seen are float32's rounding. Both sides sum in float32, in another order."""
NAME = "w"
"""Of the tensor, on which draws depend."""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Inputs, and mergekit's outputs by case."""
    if not PYTHON.exists():
        pytest.skip(f"mergekit has its own environment, and {PYTHON} is not there")
    folder = tmp_path_factory.mktemp("mergekit")
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(61, 83, generator=generator)
    tensors = {"base": base}
    tensors |= {f"m{i}": base + (0.1 + 0.2 * i) * torch.randn(base.shape, generator=generator) for i in range(3)}
    # For methods that draw: differences that no two entries of a row share, for DELLA ranks them to 16 bits.
    tensors["base drawn"] = torch.zeros(base.shape)
    for i in range(3):
        ranks = torch.rand(base.shape, generator=generator).argsort(dim=1)
        signs = torch.randint(2, base.shape, generator=generator) * 2 - 1
        tensors[f"m{i} drawn"] = 2**i * signs * (1 + ranks / 128)
        numbers = draws(0, NAME, i, 0, base.numel()).astype(np.float64) / RANGE
        tensors[f"u{i}"] = torch.from_numpy(numbers)
    save_file(tensors, folder / "in.safetensors")
    cases = {}
    for name, (slug, has_base, n, settings, _) in (CASES | DRAWN).items():
        drawn = " drawn" if name in DRAWN else ""
        inputs = [*["base" + drawn][: int(has_base)], *[f"m{i}{drawn}" for i in range(n)]]
        numbers = [f"u{i}" for i in range(n)] if drawn else []
        cases[name] = {"method": slug, "inputs": inputs, "parameters": settings, "uniform": numbers}
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    command = [PYTHON, Path(__file__).with_name("mergekit_side.py"), folder]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    return tensors, load_file(folder / "out.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_equals_mergekit(name, both):
    tensors, wanted = both
    slug, base, count, settings, ours = CASES[name]
    given = [tensors[f"m{i}"] for i in range(count)]
    found = merge_tensors(slug, given, tensors["base"] if base else None, **settings, **ours)
    torch.testing.assert_close(found, wanted[name], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", DRAWN)
def test_equals_mergekit_when_it_draws_the_same_numbers(name, both):
    """One entry that only one side keeps would be 0.5 apart at least, and change what all others are scaled by."""
    tensors, wanted = both
    slug, _, count, settings, ours = DRAWN[name]
    given = [tensors[f"m{i} drawn"] for i in range(count)]
    found = merge_tensors(slug, given, tensors["base drawn"], name=NAME, **settings, **ours)
    torch.testing.assert_close(found, wanted[name], rtol=0, atol=10 * TOLERANCE)
    assert 0.02 < float((found == 0).float().mean()) < 0.7
