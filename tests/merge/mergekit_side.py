"""Run by `test_against_mergekit.py` with mergekit's own Python: the inputs and cases of a folder, to outputs.

Where a case names uniform numbers, mergekit draws with those: one tensor for each of its draws, in their order.
"""

import json
import sys
from pathlib import Path

import torch
from mergekit.merge_methods.api import merge_tensors
from safetensors.torch import load_file, save_file

folder = Path(sys.argv[1])
tensors = load_file(folder / "in.safetensors")
own = torch.bernoulli


def drawing(names):
    """torch.bernoulli with numbers that are given: 1 where they are below the probability."""
    rest = [tensors[each] for each in names]
    return lambda p: (rest.pop(0).view(p.shape) < p).to(p.dtype)


found = {}
for name, case in json.loads((folder / "cases.json").read_text()).items():
    given = [tensors[each] for each in case["inputs"]]
    base = 0 if case["inputs"][0].startswith("base") else None
    torch.bernoulli = drawing(case["uniform"]) if case["uniform"] else own
    found[name] = merge_tensors(given, case["method"], parameters=case["parameters"], base_index=base).contiguous()
save_file(found, folder / "out.safetensors")
