"""Merging checkpoints: roster against mergekit 0.1.5 and against the floor, in interleaved rounds.

    python benchmarks/weights.py                              # 3 x 300 M bfloat16, three rounds, about half an hour
    python benchmarks/weights.py --size 50 --rounds 5         # smaller
    python benchmarks/weights.py --methods linear ties        # some of the methods; rows of the others stay

A run that was stopped goes on when it is started again with the same arguments, packages and code of roster's weights;
what it has measured lies in --work's folder until it is done. It takes 5 GB there, and 2 GB of memory for mergekit.

Every contender is a process of its own with one thread. Measured inside it, imports left out: CPU seconds (user and
system), wall seconds, and the peak of anonymous memory above what the imports took (a thread reads it every 5 ms). The
floor reads every byte of the inputs and writes an output of the same size with safetensors' own calls. Other work
shares the machine and the memory's speed swings, so the figure to look at is the ratio within one round, of which the
median is given. roster syncs its files to the disk before it swaps them in, the others do not.

mergekit has its own environment, .venv-mergekit or what ROSTER_MERGEKIT names. Inputs are random Llama-like models, a
base and two variants whose differences vary in scale from tensor to tensor; they are made once, in --work's folder.
Results go to benchmarks/results/weights.json with versions, machine and load.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

import roster

HERE = Path(__file__).parent
MERGEKIT = Path(os.environ.get("ROSTER_MERGEKIT", ".venv-mergekit")) / "bin" / "python"
SIZES = {50: (512, 1408, 10, 16000), 300: (1024, 2816, 20, 32000)}  # width, feed-forward, layers, vocabulary
# method: (settings, settings of roster alone)
METHODS = {
    "linear": ("weight: 0.5", ""),
    "slerp": ("t: 0.4", ""),
    "task_arithmetic": ("weight: 0.5", ""),
    "ties": ("weight: 0.5, density: 0.5", ""),
    "ties, per tensor": ("weight: 0.5, density: 0.5", "trim: tensor"),
    "dare_ties": ("weight: 0.5, density: 0.5", ""),
    "dare_ties, norms matched": ("weight: 0.5, density: 0.5", "scale_to: norm"),
    "breadcrumbs": ("weight: 0.5, density: 0.5, gamma: 0.01", ""),
    "della": ("weight: 0.5, density: 0.5, epsilon: 0.1", ""),
    "model_stock": ("", ""),
    "karcher": ("", ""),
    "sce": ("", ""),
}

MEASURE = """
import json, os, resource, threading, time
def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
class Measured:
    def __enter__(self):
        self.before = self.peak = anonymous(); self.over = False
        self.watch = threading.Thread(target=self.look); self.watch.start()
        self.cpu, self.wall = time.process_time(), time.perf_counter()
    def __exit__(self, *_):
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        self.over = True; self.watch.join()
        print("MEASURED", json.dumps({"cpu": cpu, "wall": wall, "mib": (self.peak - self.before) / 1024}))
    def look(self):
        while not self.over:
            self.peak = max(self.peak, anonymous()); time.sleep(0.005)
"""
FLOOR = """
import sys, torch; from safetensors.torch import load_file, save_file; torch.set_num_threads(1)
with Measured():
    for folder in sys.argv[2:]:
        kept = load_file(folder + "/model.safetensors")
        for each in kept.values(): each.view(torch.uint8)[..., ::1024].max()
    import os; os.makedirs(sys.argv[1]); save_file(kept, sys.argv[1] + "/model.safetensors")
"""
ROSTER = """
import sys, torch; from pathlib import Path
from roster.merge import plan_merge, read_config; from roster.weights import run
torch.set_num_threads(1)
with Measured():
    run(plan_merge(read_config(Path(sys.argv[2]))), sys.argv[1])
"""
KIT = """
import sys, yaml, torch; from mergekit.config import MergeConfiguration; from mergekit.merge import run_merge
from mergekit.options import MergeOptions
torch.set_num_threads(1)
config = MergeConfiguration.model_validate(yaml.safe_load(open(sys.argv[2])))
with Measured():
    run_merge(config, out_path=sys.argv[1], options=MergeOptions(copy_tokenizer=False, write_model_card=False))
"""


def main() -> None:
    options = parse()
    work = options.work / f"{options.size}"
    folders = make(work, options.size)
    half = Half(work / "weights-rows.json", [options.rounds, options.methods, options.alone])
    for number in range(options.rounds):
        for method in options.methods:
            if any(row["round"] == number and row["method"] == method for row in half.rows):
                continue
            row = {"round": number, "method": method, "load": os.getloadavg()[0]}
            models = folders if method not in ("slerp",) else folders[:2]
            row["floor"] = measure(sys.executable, FLOOR, work, [str(each) for each in models])
            settings, ours = METHODS[method]
            row["roster"] = measure(sys.executable, ROSTER, work, [config(work, method, models, settings, ours)])
            if MERGEKIT.exists() and not options.alone:
                row["mergekit"] = measure(str(MERGEKIT), KIT, work, [config(work, method, models, settings, "")])
            half.add(row)
    save(options, kept(options) + half.rows)
    half.done()


class Half:
    """What a run has measured so far, kept for the same run when it is started again.

    Args:
        file: where.
        arguments: of the run.
    """

    def __init__(self, file: Path, arguments: list) -> None:
        self._file = file
        packages = [platform.python_version(), torch.__version__, safetensors.__version__]
        self._key = json.loads(json.dumps([arguments, packages, _code()]))
        kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self.rows: list[dict] = kept["rows"] if kept.get("key") == self._key else []

    def add(self, row: dict) -> None:
        """A measured row, shown and kept."""
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        self._file.write_text(json.dumps({"key": self._key, "rows": self.rows}) + "\n", encoding="utf-8")

    def done(self) -> None:
        """The next run begins anew."""
        self._file.unlink(missing_ok=True)


def _code() -> str:
    """A hash of what is measured."""
    source = Path(roster.__file__).parent
    files = sorted(each for room in ("weights", "merge", "convert") for each in (source / room).glob("*.py"))
    return hashlib.sha256(b"".join(each.read_bytes() for each in files)).hexdigest()


def kept(options: argparse.Namespace) -> list[dict]:
    """Rows of methods that are not measured now."""
    if not options.out.exists():
        return []
    return [row for row in json.loads(options.out.read_text())["rows"] if row["method"] not in options.methods]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, choices=SIZES, default=300, help="millions of parameters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--work", type=Path, default=Path("build/weights"), help="where inputs and outputs lie")
    parser.add_argument("--alone", action="store_true", help="without mergekit")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "weights.json")
    return parser.parse_args()


def make(work: Path, size: int) -> list[Path]:
    """A base and two variants, bfloat16."""
    width, inner, layers, words = SIZES[size]
    shapes = {
        "model.embed_tokens.weight": (words, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (words, width),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{each}_proj.weight": (width, width) for each in "qkvo"}
        shapes |= {f"{at}.mlp.{each}_proj.weight": (inner, width) for each in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (width, inner)}
        shapes |= {f"{at}.{each}_layernorm.weight": (width,) for each in ("input", "post_attention")}
    settings = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": width // 64, "num_key_value_heads": width // 64,
        "vocab_size": words, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    }  # fmt: skip
    folders = [work / name for name in ("base", "a", "b")]
    if not (folders[-1] / "config.json").exists():
        generator = torch.Generator().manual_seed(0)
        base = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for number, folder in enumerate(folders):
            folder.mkdir(parents=True, exist_ok=True)
            values = {}
            for at, (name, value) in enumerate(base.items()):
                scale = 0.0 if number == 0 else 0.002 * (0.3 + (7 * at + number) % 10 / 5)
                noise = torch.randn(value.shape, generator=generator) if scale else 0
                values[name] = (value + scale * noise).bfloat16()
            save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folders


def config(work: Path, method: str, models: list[Path], settings: str, ours: str) -> str:
    """A YAML file for both; `linear` and `karcher` merge the base like the others."""
    slug = method.partition(",")[0]
    members = models if slug in ("linear", "karcher") else models[1:]
    lines = [f"merge_method: {slug}", "models:", *(f"  - model: {each.resolve()}" for each in members)]
    if slug not in ("linear", "karcher"):
        lines.append(f"base_model: {models[0].resolve()}")
    lines.append(f"parameters: {{{', '.join(each for each in (settings, ours) if each)}}}")
    path = work / f"{slug}{'-ours' if ours else ''}.yaml"
    path.write_text("\n".join([*lines, "dtype: bfloat16", ""]), encoding="utf-8")
    return str(path)


def measure(python: str, code: str, work: Path, arguments: list[str]) -> dict[str, float]:
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [python, "-c", MEASURE + code, str(out), *arguments], capture_output=True, text=True, env=environment
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("MEASURED")]
    if done.returncode or not found:
        raise SystemExit(f"{python} failed:\n{done.stderr}")
    shutil.rmtree(out, ignore_errors=True)
    return {name: round(value, 3) for name, value in json.loads(found[0].removeprefix("MEASURED ")).items()}


def save(options: argparse.Namespace, rows: list[dict]) -> None:
    table = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        kit = [row for row in mine if "mergekit" in row]
        table[method] = {
            "rounds": len(mine),
            "cpu over the floor": median(row["roster"]["cpu"] / row["floor"]["cpu"] for row in mine),
            "MiB": median(row["roster"]["mib"] for row in mine),
            "faster than mergekit, cpu": median(row["mergekit"]["cpu"] / row["roster"]["cpu"] for row in kit),
            "faster than mergekit, wall": median(row["mergekit"]["wall"] / row["roster"]["wall"] for row in kit),
            "mergekit MiB": median(row["mergekit"]["mib"] for row in kit),
        }
    about = {
        "models": f"3 x {options.size} M bfloat16", "python": platform.python_version(), "torch": torch.__version__,
        "safetensors": safetensors.__version__, "mergekit": "0.1.5", "cpus": os.cpu_count(), "threads": 1,
        "machine": platform.machine(),
    }  # fmt: skip
    options.out.write_text(
        json.dumps({"about": about, "table": table, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )


def median(values) -> float | None:
    found = list(values)
    return round(statistics.median(found), 2) if found else None


if __name__ == "__main__":
    main()
