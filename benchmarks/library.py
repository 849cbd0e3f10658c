"""What a folder of 1,000 adapters costs: memory to attach it, time to search it, time of an answer by `auto`.

    python benchmarks/library.py                   # makes the adapters first; they stay in --work
    python benchmarks/library.py --layers 4 --adapters 200

A Llama of Llama 3.2 1B's shape (width 2048, 32 heads, 8 key-value heads, 16 layers, 128,256 tokens) with random
weights in bfloat16, and adapters of rank 8 on q and v. Weights are drawn from one pool of random numbers, since their
values do not matter. Adapters are told apart by their example prompts, a pair of letters repeated. `auto` reads prompts
behind block 2 (`--block`), with two examples on each card.

Memory is what the process has of its own (RssAnon) and in mapped files (RssFile), by /proc; the peak of both together
is VmHWM. Attaching is measured in a process of its own, with experts in memory and mapped from disk. Times are one
thread's own seconds, of a routed model with all adapters (mapped) and one with the first 8 of them (mapped, and in
memory), in turns in one process; ratios are medians over pairs of neighbours in time. `experts find` is run as a
command.

Results go to benchmarks/results/library.json with versions, machine and load.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from moe import about
from roster.adapters.attach import attach
from roster.library import Card, Library, LowRank, make_adapter, write_adapter
from roster.recipes import find

RESULTS = Path(__file__).parent / "results" / "library.json"
WIDTH, RANK, FEW, PROMPT, TOKENS = 2048, 8, 8, 64, 8
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


class Characters:
    """A tokenizer of one token per character."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(each) for each in text]}


def base(layers: int) -> Any:
    config = transformers.LlamaConfig(
        hidden_size=WIDTH, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=True, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu").eval()
    pool = pool_of(1 << 22, 0)
    for name, each in model.named_parameters():
        if each.dim() == 1:
            each.data.fill_(1.0)
        else:
            flat, scale = each.data.view(-1), 0.02 if "embed" in name else each.shape[1] ** -0.5
            for start in range(0, flat.numel(), pool.numel()):
                part = flat[start : start + pool.numel()]
                # Turned a little each time, so that no two rows are alike.
                part.copy_(pool.roll(start // 97 % 1013)[: part.numel()] * scale)
    model.tie_weights()
    inner = model.model.rotary_emb
    inner.inv_freq, _ = inner.compute_default_rope_parameters(config)
    inner.original_inv_freq = inner.inv_freq
    return model


def pool_of(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).bfloat16()


def name_of(number: int) -> str:
    """Its example prompts repeat it."""
    first, second = divmod(number, len(LETTERS))
    return LETTERS[first % len(LETTERS)] + LETTERS[second]


def make(model: Any, folder: Path, count: int, console: Console) -> None:
    """Writes the adapters that are not there yet."""
    targets = ("q_proj", "v_proj")
    linears = {name: each.weight.shape for name, each in model.named_modules() if name.rsplit(".", 1)[-1] in targets}
    pool = pool_of(1 << 20, 1)
    for number in range(count):
        name = name_of(number)
        if (folder / name / "card.json").exists():
            continue
        turned = pool.roll(7919 * number % pool.numel())
        modules = {
            site: LowRank(
                turned[: RANK * width].view(RANK, width) * width**-0.5,
                turned[-out * RANK :].view(out, RANK) * 0.01,
                2.0,
            )
            for site, (out, width) in linears.items()
        }
        card = Card(task=name, description=f"Prompts of {name}.", examples=[name * 4, name * 6], base="random")
        write_adapter(folder, make_adapter(name, modules, base="random", card=card))
        if number % 100 == 99:
            console.print(f"{number + 1} adapters written", highlight=False)


def memory() -> dict[str, float]:
    """MB of this process."""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(told[name].split()[0]) / 1000 for name in ("RssAnon", "RssFile", "VmHWM")}


def attached(layers: int, folder: Path, count: int, mapped: bool, block: int, recipe: str = "auto") -> Any:
    model = base(layers)
    library = Library.read(folder, mapped=mapped)
    if count < len(library):
        library = Library({name: library[name] for name in library.names[:count]})
    options = {"layer": block, "abstain": False} if recipe == "auto" else {}
    return attach(model, library, find(recipe)(options), recipe=recipe, options=options, tokenizer=Characters()).eval()


def attaching(layers: int, folder: Path, count: int, mapped: bool) -> dict[str, float]:
    """Run in a process of its own: what reading and attaching takes beside the base. `named` fits nothing."""
    model = base(layers)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here
    before, started = memory(), time.process_time()
    library = Library.read(folder, mapped=mapped)
    read_s = time.process_time() - started
    attach(model, library, find("named")(), recipe="named")
    del library
    after = memory()
    return {
        "own_MB": round(after["RssAnon"] - before["RssAnon"], 1),
        "mapped_MB": round(after["RssFile"] - before["RssFile"], 1),
        "peak_MB": round(after["VmHWM"] - before["RssAnon"] - before["RssFile"], 1),
        "read_s": round(read_s, 1),
        "attach_s": round(time.process_time() - started - read_s, 1),
    }


def in_own_process(*arguments: str) -> dict[str, float]:
    told = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(told.splitlines()[-1])
    return found


def finding(folder: Path, name: str) -> dict[str, float]:
    """`roster experts find`, the second time, when its index is there: wall time, and the process's own."""
    command = [sys.executable, "-m", "roster", "experts", "find", str(folder), f"prompts of {name}"]
    subprocess.run(command, check=True, capture_output=True)
    walls, owns = [], []
    for _ in range(5):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        walls.append(time.monotonic() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        owns.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert name in told
    return {"wall_s": round(statistics.median(walls), 3), "own_s": round(statistics.median(owns), 3)}


def timed(run: Callable[[], object]) -> float:
    started = time.thread_time()
    run()
    return time.thread_time() - started


def in_turns(runs: dict[str, Callable[[], object]], over: str, rounds: int) -> dict[str, float]:
    """Median over rounds of each one's time over that of `over` in the same round."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-1, rounds):
        times = {name: timed(run) for name, run in runs.items()}
        if turn >= 0:
            for name, each in times.items():
                found[name].append(each / times[over])
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def answering(layers: int, folder: Path, count: int, block: int, rounds: int, console: Console) -> dict[str, Any]:
    console.print("fitting auto on all adapters", highlight=False)
    models = {"all": attached(layers, folder, count, True, block)}
    for name, mapped in (("few", True), ("few, in memory", False)):
        models[name] = attached(layers, folder, FEW, mapped, block)
    ids = torch.tensor([[ord(each) for each in name_of(3) * (PROMPT // 2)]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    say = {"do_sample": False, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS}

    def forward(model: Any) -> Callable[[], object]:
        return lambda: model(**given, use_cache=False, prompt_mask=given["attention_mask"].bool())

    def generate(model: Any) -> Callable[[], object]:
        return lambda: model.generate(**given, **say)

    with torch.inference_mode():
        return {
            "forward": in_turns({name: forward(each) for name, each in models.items()}, "few", rounds),
            "generate": in_turns({name: generate(each) for name, each in models.items()}, "few", rounds),
        }


def store(result: dict[str, Any], not_now: bool) -> None:
    """Each part is written as it ends."""
    if not not_now:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--block", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "roster" / "benchmark-library")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("make", "attach", "find", "answer"))
    parser.add_argument("--attaching", choices=("memory", "mapped"), help="inner use: one measurement, as JSON")
    parser.add_argument("--no-write", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(stderr=True)
    folder = asked.work / f"{asked.layers}-{asked.adapters}"
    if asked.attaching:
        print(json.dumps(attaching(asked.layers, folder, asked.adapters, asked.attaching == "mapped")))
        return
    make(base(asked.layers), folder, asked.adapters, console)
    stored = sum(path.stat().st_size for path in folder.glob("*/adapter_model.safetensors")) / 1e6
    result: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result |= {**about(), "load": round(os.getloadavg()[0], 1), "layers": asked.layers, "adapters": asked.adapters}
    result["rounds"] = asked.rounds
    result["stored_MB"] = round(stored, 1)
    if asked.only in (None, "attach"):
        for how in ("memory", "mapped"):
            console.print(f"attaching: {how}", highlight=False)
            given = ("--layers", str(asked.layers), "--adapters", str(asked.adapters), "--work", str(asked.work))
            found = in_own_process(*given, "--attaching", how)
            result[f"attach, {how}"] = {**found, "own_over_stored": round(found["own_MB"] / stored, 3)}
        store(result, asked.no_write)
    if asked.only in (None, "find"):
        result["find"] = finding(folder, name_of(asked.adapters - 1))
        store(result, asked.no_write)
    if asked.only in (None, "answer"):
        result["answer"] = answering(asked.layers, folder, asked.adapters, asked.block, asked.rounds, console)
    console.print_json(json.dumps(result))
    store(result, asked.no_write)


if __name__ == "__main__":
    main()
