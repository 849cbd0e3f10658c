"""Run by `test_against_mergekit.py` with mergekit's own Python: the inputs and cases of a folder, to outputs."""

import json
import sys
from pathlib import Path

from mergekit.merge_methods.api import merge_tensors
from safetensors.torch import load_file, save_file

folder = Path(sys.argv[1])
tensors = load_file(folder / "in.safetensors")
found = {}
for name, case in json.loads((folder / "cases.json").read_text()).items():
    given = [tensors[each] for each in case["inputs"]]
    base = 0 if case["inputs"][0] == "base" else None
    found[name] = merge_tensors(given, case["method"], parameters=case["parameters"], base_index=base).contiguous()
save_file(found, folder / "out.safetensors")
