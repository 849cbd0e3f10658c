"""A merge of 20 GB under a memory limit of 4 GiB, against the disk's own copy speed.

    python benchmarks/large_merge.py                       # two inputs and an output of 6.7 GB each, 20 GB on disk
    python benchmarks/large_merge.py --gigabytes 2         # smaller
    python benchmarks/large_merge.py --work FOLDER         # on another disk

A run that was stopped goes on when it is started again: inputs that are whole are not made again, nor is what was timed
already; a merge that was stopped is timed anew. It needs as much disk as --gigabytes says, and some 300 MB of memory
(600 MB to make the inputs, shard by shard).

Two Llama-like checkpoints of random bfloat16 tensors in shards of 1 GB are merged linearly by `roster merge` in a
process of its own under `ulimit -v` of 4 GiB (address space, so the process could not map more than that either). The
pages of the inputs are dropped from the cache first. The disk's speed is what `cp` takes, synced, to copy one of the
inputs, also from a cold cache, before and after; the floor of the merge is reading both inputs and writing one output.
Files are deleted when all is measured. Results: benchmarks/results/large_merge.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
WIDTH, INNER, WORDS, SHARD = 2048, 5632, 32000, 10**9
LIMIT = 4 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20.0, help="of inputs and output together")
    parser.add_argument("--work", type=Path, default=Path("build/large"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "large_merge.json")
    options = parser.parse_args()
    work = options.work / f"{options.gigabytes:g}"
    work.mkdir(parents=True, exist_ok=True)
    models = [make(work / name, options.gigabytes * 1e9 / 3, seed) for seed, name in enumerate("ab")]
    size = sum(each.stat().st_size for each in models[0].glob("*.safetensors"))
    first = timed(work / "first.json", lambda: copied(models[0], work / "copy"))
    merged = timed(work / "merge.json", lambda: merge(models, work / "merged"))
    copies = [first, timed(work / "second.json", lambda: copied(models[1], work / "copy"))]
    shutil.rmtree(work)
    speed = 2 * size / (sum(copies) / len(copies))
    result = {
        "date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "torch": torch.__version__,
        "machine": platform.machine(), "cpus": os.cpu_count(), "load": list(os.getloadavg()),
        "bytes of each": size, "limit of the address space": LIMIT, "cp, seconds": copies, **merged,
        "bytes a second of cp": round(speed), "bytes a second of the merge": round(3 * size / merged["seconds"]),
        "merge over cp, bytes a second": round(3 * size / merged["seconds"] / speed, 3),
    }  # fmt: skip
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def timed(file: Path, measure: Callable[[], Any]) -> Any:
    """What was measured, now or by a run before."""
    if not file.is_file():
        found = {"found": measure(), "load": list(os.getloadavg())}
        print(file.stem, json.dumps(found), flush=True)
        file.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))["found"]


def make(folder: Path, size: float, seed: int) -> Path:
    """A sharded checkpoint of about that many bytes; one that is whole has a config, which is written last."""
    if (folder / "config.json").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (WORDS, WIDTH), "lm_head.weight": (WORDS, WIDTH)}
    a_layer = 2 * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)
    layers = max(int((size - 4 * WORDS * WIDTH) / a_layer), 1)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{each}_proj.weight": (WIDTH, WIDTH) for each in "qkvo"}
        shapes |= {f"{at}.mlp.{each}_proj.weight": (INNER, WIDTH) for each in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (WIDTH, INNER)
    generator = torch.Generator().manual_seed(seed)
    noise = (0.02 * torch.randn(WORDS * WIDTH + 10**6, generator=generator)).bfloat16()
    held: dict[str, torch.Tensor] = {}
    where, number = {}, 0
    for at, (name, shape) in enumerate(shapes.items()):
        count = shape[0] * shape[1]
        # Slices of one draw at different places: drawing 20 GB anew would take longer than the merge.
        held[name] = noise[(start := 7919 * at % 10**6) : start + count].view(shape).clone()
        if sum(each.nbytes for each in held.values()) > SHARD or at == len(shapes) - 1:
            save_file(held, folder / f"part-{number}.safetensors", metadata={"format": "pt"})
            where |= dict.fromkeys(held, f"part-{number}.safetensors")
            held, number = {}, number + 1
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    settings: dict[str, Any] = {
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": layers,
        "num_attention_heads": WIDTH // 64, "vocab_size": WORDS, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def drop(folder: Path) -> None:
    """Written, and out of the cache."""
    for file in folder.glob("*.safetensors"):
        opened = os.open(file, os.O_RDONLY)
        os.fsync(opened)
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(opened)


def copied(folder: Path, out: Path) -> float:
    """Seconds of a copy on the disk."""
    shutil.rmtree(out, ignore_errors=True)
    drop(folder)
    began = time.perf_counter()
    subprocess.run(["cp", "-r", str(folder), str(out)], check=True)
    subprocess.run(["sync", "-f", str(out)], check=True)
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return round(seconds, 2)


def merge(models: list[Path], out: Path) -> dict[str, Any]:
    """`roster merge` under the limit, as a user starts it; the result is looked at, and deleted."""
    for each in (out, out.with_name(f".{out.name}.partial")):
        shutil.rmtree(each, ignore_errors=True)
    for each in models:
        drop(each)
    command = [
        sys.executable,
        "-m",
        "roster",
        "merge",
        "--method",
        "linear",
        "--option",
        "weight=0.5",
        "--out",
        str(out),
    ]
    for each in models:
        command += ["--model", str(each)]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    limited = ["bash", "-c", f'ulimit -v {LIMIT // 1024}; exec "$@"', "merge", *command]
    running = subprocess.Popen(limited, env={**os.environ, "OMP_NUM_THREADS": "1"})
    peak = 0
    while running.poll() is None:
        peak = max(peak, _resident(running.pid))
        time.sleep(0.1)
    if running.returncode:
        raise SystemExit(f"the merge ended with {running.returncode}")
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    check(models, out)
    shutil.rmtree(out)
    return {"seconds": round(seconds, 2), "cpu seconds": round(cpu, 2), "peak resident MiB": peak // 1024}


def _resident(pid: int) -> int:
    """Peak so far in KiB; what getrusage tells of a child begins with its parent's."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def check(models: list[Path], out: Path) -> None:
    """A tensor of the result against torch."""
    from safetensors import safe_open

    name = "model.layers.0.mlp.down_proj.weight"

    def read(folder: Path) -> torch.Tensor:
        index = folder / "model.safetensors.index.json"
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.is_file() else {}
        with safe_open(folder / files.get(name, "model.safetensors"), "pt") as opened:
            found: torch.Tensor = opened.get_tensor(name)
            return found

    wanted = (0.5 * read(models[0]).float() + 0.5 * read(models[1]).float()).bfloat16()
    assert torch.equal(read(out), wanted)


if __name__ == "__main__":
    main()
