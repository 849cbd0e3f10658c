"""Upcycling against the floor, adapters against PEFT, and a whole small merge: CPU seconds, in interleaved rounds.

    python benchmarks/conversions.py                # 50 M upcycled to 8 experts, three adapters of rank 16 at 2048
    python benchmarks/conversions.py --rounds 5     # goes on where it was stopped

- upcycling: a random Llama-like model in bfloat16 into a Mixtral of 8 experts. The floor reads every byte and writes
  as many as the Mixtral has by safetensors' own call, from the same memory; roster syncs what it writes to the disk, so
  the floor is taken with that, too.
- adapters: three LoRA updates of rank 16 of two linear layers (2048 x 2048 and 2048 x 5632), weights 1, 0.5, -0.5, into
  one of rank 16: PEFT's `add_weighted_adapter(combination_type="svd")` against `roster.merge.adapters.compress`. The
  error is that of the product, relative to the true sum.
- process: `roster merge` of two models of four layers and width 256, imports included.

Every contender of upcycling is a process of its own, as in benchmarks/weights.py, from which this takes its measuring;
adapters are merged in one process. Other work shares the machine, so CPU seconds and ratios within one round are the
figures, of which the median is given. Results: benchmarks/results/conversions.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import peft
import safetensors
import torch
from torch import Tensor, nn

from roster.library import LowRank
from roster.merge.adapters import compress

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from weights import Half, make, measure  # noqa: E402  # the neighbour

UPCYCLE = """
import sys, torch
from roster.convert import plan_upcycling; from roster.convert.dense import open_dense; from roster.weights import run
torch.set_num_threads(1)
with Measured():
    run(plan_upcycling(open_dense(sys.argv[2]), copies=8), sys.argv[1])
"""
FLOOR = """
import os, sys, torch; from safetensors import TensorSpec, serialize_file; from safetensors.torch import load_file
torch.set_num_threads(1); os.makedirs(sys.argv[1]); path = sys.argv[1] + "/out"
with Measured():
    kept, written = load_file(sys.argv[2] + "/model.safetensors"), {}
    for name, x in kept.items():
        for copy in range(8 if ".mlp." in name else 1):
            written[f"{name} {copy}"] = TensorSpec(
                dtype="bfloat16", shape=x.shape, data_ptr=x.data_ptr(), data_len=x.nbytes)
    serialize_file(written, path)
    if len(sys.argv) > 3:
        with open(path, "rb") as out: os.fsync(out.fileno())
"""
SHAPES, RANK, WEIGHTS = ((2048, 2048), (2048, 5632)), 16, (1.0, 0.5, -0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=50)
    parser.add_argument("--work", type=Path, default=Path("build/weights"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "conversions.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = options.work / f"{options.size}"
    models = make(work, options.size)
    half = Half(work / "conversions-rows.json", [options.rounds])
    for number in range(len(half.rows), options.rounds):
        row: dict[str, Any] = {"round": number, "load": os.getloadavg()[0]}
        row["floor"] = measure(sys.executable, FLOOR, work, [models[0]])
        row["floor, synced"] = measure(sys.executable, FLOOR, work, [models[0], "sync"])
        row["upcycling"] = measure(sys.executable, UPCYCLE, work, [models[0]])
        row |= adapters(seed=number) | {"process": process(work)}
        half.add(row)
    save(options, half.rows)
    half.done()


def adapters(seed: int) -> dict[str, Any]:
    """CPU seconds and errors of both."""
    generator = torch.Generator().manual_seed(seed)
    updates = [
        [
            LowRank(
                torch.randn(RANK, width, generator=generator) * width**-0.5,
                torch.randn(height, RANK, generator=generator),
                1.0,
            )
            for _ in WEIGHTS
        ]
        for width, height in SHAPES
    ]
    wanted = [
        sum((w * (u.B_OR @ u.A_RD) for w, u in zip(WEIGHTS, each, strict=True)), torch.zeros(())) for each in updates
    ]
    began = time.process_time()
    ours = [compress(each, WEIGHTS, RANK)[0] for each in updates]
    mine = time.process_time() - began
    found = [each.scale * each.B_OR @ each.A_RD for each in ours]
    model = _peft(updates)
    began = time.process_time()
    model.add_weighted_adapter(["0", "1", "2"], list(WEIGHTS), "merged", combination_type="svd", svd_rank=RANK)
    theirs = time.process_time() - began
    layers = [model.get_submodule(f"base_model.model.{each}") for each in range(len(SHAPES))]
    merged = [each.lora_B["merged"].weight @ each.lora_A["merged"].weight * each.scaling["merged"] for each in layers]
    return {
        "adapters": {"roster": mine, "peft": theirs},
        "errors": {"roster": _error(found, wanted), "peft": _error(merged, wanted)},
    }


def _peft(updates: list[list[LowRank]]) -> Any:
    base = nn.Sequential(*(nn.Linear(width, height, bias=False) for width, height in SHAPES))
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0", "1"])
    model = peft.get_peft_model(base, config, adapter_name="0")
    for name in ("1", "2"):
        model.add_adapter(name, config)
    with torch.no_grad():
        for layer, each in enumerate(updates):
            module: Any = model.get_submodule(f"base_model.model.{layer}")
            for name, update in enumerate(each):
                module.lora_A[str(name)].weight.copy_(update.A_RD)
                module.lora_B[str(name)].weight.copy_(update.B_OR)
    return model


def _error(found: list[Tensor], wanted: list[Tensor]) -> float:
    with torch.no_grad():
        apart = sum(float((a - b).norm() ** 2) for a, b in zip(found, wanted, strict=True))
    return (apart / sum(float(each.norm() ** 2) for each in wanted)) ** 0.5


def process(work: Path) -> float:
    """CPU seconds of `roster merge` on something small, with its children's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folders = [work / "small-a", work / "small-b"]
    for folder in folders:
        if not folder.exists():
            config = LlamaConfig(hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
            LlamaForCausalLM(config).save_pretrained(folder)
    shutil.rmtree(work / "small-out", ignore_errors=True)
    command = [sys.executable, "-m", "roster", "merge", "--method", "linear", "--out", str(work / "small-out")]
    for folder in folders:
        command += ["--model", str(folder)]
    before = os.times()
    subprocess.run([*command, "--option", "weight=0.5"], check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def save(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """The medians, and every round."""
    table = {
        "upcycling over the floor, cpu": statistics.median(r["upcycling"]["cpu"] / r["floor"]["cpu"] for r in rows),
        "upcycling over the floor that syncs its file too, cpu": statistics.median(
            r["upcycling"]["cpu"] / r["floor, synced"]["cpu"] for r in rows
        ),
        "upcycling, MiB": statistics.median(r["upcycling"]["mib"] for r in rows),
        "adapters, faster than PEFT, cpu": statistics.median(
            r["adapters"]["peft"] / r["adapters"]["roster"] for r in rows
        ),
        "adapters, cpu seconds": statistics.median(r["adapters"]["roster"] for r in rows),
        "adapters, error": statistics.median(r["errors"]["roster"] for r in rows),
        "adapters, error of PEFT": statistics.median(r["errors"]["peft"] for r in rows),
        "small merge, whole process, cpu seconds": statistics.median(r["process"] for r in rows),
    }
    about = {
        "model": f"{options.size} M bfloat16, to 8 experts",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "safetensors": safetensors.__version__,
        "peft": peft.__version__,
        "cpus": os.cpu_count(),
        "threads": 1,
        "machine": platform.machine(),
    }
    table = {name: round(value, 3) for name, value in table.items()}
    options.out.write_text(
        json.dumps({"about": about, "table": table, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
