"""The methods that mergekit 0.1.5 has too, against it, in float32; of random ones (DARE, DELLA) what is certain."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from roster.merge import merge_tensors

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
TOLERANCE = 2e-5
"""Of entries of size 1; the largest seen are float32's rounding. Both sides sum in float32, in another order."""


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
    save_file(tensors, folder / "in.safetensors")
    cases = {
        name: {"method": slug, "inputs": [*["base"][: int(base)], *[f"m{i}" for i in range(n)]], "parameters": settings}
        for name, (slug, base, n, settings, _) in CASES.items()
    }
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
