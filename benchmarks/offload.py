"""Mixtures larger than the memory, caches of experts on recorded routes, and placements.

    python benchmarks/offload.py                     # everything: a 4.2 GB model in --work, ten minutes on a free core
    python benchmarks/offload.py --parts small simulator place
    python benchmarks/offload.py --layers 8          # a third of the model

Parts
- `large`: a random model of Mixtral's shape (width 1,024, 8 experts of 3,584 in each layer, bfloat16). A contender is
  a process of its own with one thread: the whole model in memory, roster at 50 % and 25 % of the experts, accelerate's
  disk offload (`device_map` with every layer on disk). Decoding is fed random tokens, whose random routes no cache can
  foresee by popularity: the hardest case. roster reads past the system's cache (`direct=True`); what the disk gives is
  measured beside it by reading the same file in the same way. Memory is RssAnon at its peak, less what it was after the
  imports. Where this process may make a control group (root, cgroup v1 or v2), every contender but the model in memory
  has its budget and 300 MiB in all, the system's cache of its files included, and begins with none of them cached:
  accelerate maps its files, and without a limit it would be served from memory. It joins after loading, so that only
  decoding is limited.
- `small`: a mixture trained here for a few minutes on Python's own library, byte by byte: what real routes look like.
  Policies are compared on held-out texts, and tokens/s with the whole model's, though such a small one mostly
  measures Python.
- `simulator`: seconds for 10^6 decisions. `place`: placements for the small model, on held-out routes. `moetuner`: its
  time for 64 experts in each of 24 layers.

Other work shares the machine: look at ratios within one run; the load is recorded. Results go to
benchmarks/results/offload.json, part by part.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
OUT = HERE / "results" / "offload.json"
PARTS = ("simulator", "moetuner", "place", "small", "large")
WIDTH, HIDDEN, EXPERTS = 1024, 3584, 8
EXPERT_BYTES = 3 * WIDTH * HIDDEN * 2


# ---- the large model -------------------------------------------------------------------------------------------------


def large_config(layers):
    import transformers

    return transformers.MixtralConfig(
        **{"vocab_size": 8192, "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": layers},
        **{"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "num_local_experts": EXPERTS},
        **{"num_experts_per_tok": 2, "max_position_embeddings": 2048, "tie_word_embeddings": False},
        architectures=["MixtralForCausalLM"],
        dtype="bfloat16",
    )


def make_large(folder, layers):
    """Random weights, one draw cut at another place for every expert: bytes and routes are as good as drawn anew."""
    if (folder / "config.json").is_file():
        return
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = large_config(layers)
    torch.manual_seed(0)
    pool = (torch.randn(HIDDEN * WIDTH + 4096) * 0.02).bfloat16()

    def cut(number, *shape):
        start = (number * 64) % 4096
        return pool[start : start + int(np.prod(shape))].view(shape)

    shards, names = layers + 1, {}
    for layer in range(layers):
        at, head = f"model.layers.{layer}", {}
        for name, rows in (("q", 1024), ("k", 256), ("v", 256), ("o", 1024)):
            head[f"{at}.self_attn.{name}_proj.weight"] = cut(layer + rows, rows, WIDTH).clone()
        for norm in ("input_layernorm", "post_attention_layernorm"):
            head[f"{at}.{norm}.weight"] = torch.ones(WIDTH, dtype=torch.bfloat16)
        head[f"{at}.block_sparse_moe.gate.weight"] = (torch.randn(EXPERTS, WIDTH) * 0.1).bfloat16()
        for expert in range(EXPERTS):
            for number, (name, shape) in enumerate(
                (("w1", (HIDDEN, WIDTH)), ("w2", (WIDTH, HIDDEN)), ("w3", (HIDDEN, WIDTH)))
            ):
                head[f"{at}.block_sparse_moe.experts.{expert}.{name}.weight"] = cut(expert * 3 + number, *shape).clone()
        file = f"model-{layer + 1:05d}-of-{shards:05d}.safetensors"
        save_file(head, folder / file, {"format": "pt"})
        names |= dict.fromkeys(head, file)
    rest = {
        "model.embed_tokens.weight": (torch.randn(8192, WIDTH) * 0.5).bfloat16(),
        "lm_head.weight": cut(7, 8192 // 4, WIDTH).repeat(4, 1),
        "model.norm.weight": torch.ones(WIDTH, dtype=torch.bfloat16),
    }
    file = f"model-{shards:05d}-of-{shards:05d}.safetensors"
    save_file(rest, folder / file, {"format": "pt"})
    names |= dict.fromkeys(rest, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    config.save_pretrained(folder)


def anonymous():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Peak:
    """Of anonymous memory, in bytes."""

    def __enter__(self):
        self.before = self.peak = anonymous()
        self.over = False
        self.watch = threading.Thread(target=self.look)
        self.watch.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.watch.join()

    def look(self):
        while not self.over:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.02)


class Limit:
    """A control group with so many bytes of memory, the system's cache of files included; None where it cannot be made.

    Attributes:
        nbytes: the limit, or None.
    """

    def __init__(self, nbytes):
        two = Path("/sys/fs/cgroup/cgroup.controllers").is_file()
        root = Path("/sys/fs/cgroup") if two else Path("/sys/fs/cgroup/memory")
        self.path, self.nbytes = root / f"roster-offload-{os.getpid()}", None
        try:
            self.path.mkdir(exist_ok=True)
            (self.path / ("memory.max" if two else "memory.limit_in_bytes")).write_text(str(nbytes))
            self.nbytes = nbytes
        except OSError as error:
            print(f"no limit: {error}", flush=True)

    def join(self):
        if self.nbytes is not None:
            (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self):
        if self.path.is_dir():
            self.path.rmdir()


def forget(folder):
    """Takes a folder's files out of the system's cache."""
    os.sync()
    for file in folder.rglob("*"):
        if file.is_file():
            opened = os.open(file, os.O_RDONLY)
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(opened)


def case(name, folder, tokens, limit, seed=0):
    """One contender, in this process; returns its figures."""
    import torch
    import transformers

    from roster.offload.loading import load

    ids = torch.randint(0, 8192, (1, 512 + tokens), generator=torch.Generator().manual_seed(seed))
    found = {"limit_mib": None if limit.nbytes is None else limit.nbytes / 2**20}
    forget(folder)
    if name.startswith("roster"):
        limit.join()
    with Peak() as peak, torch.inference_mode():
        if name.startswith("roster"):
            _, percent, policy = name.split(":")
            budget = budget_of(folder, int(percent))
            model = load(folder, budget, policy=policy, direct=True)
            found["budget_mib"], found["slots"] = budget / 2**20, model.offload.run.residency.shares.total
        elif name == "accelerate":
            layers = len(list(folder.glob("model-*.safetensors"))) - 1
            where = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu", "model.rotary_emb": "cpu"}
            where |= {f"model.layers.{each}": "disk" for each in range(layers)}
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype="bfloat16", device_map=where, offload_folder=str(folder / "offloaded")
            )
            forget(folder)
            limit.join()
        else:
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").eval()
            for parameter in model.parameters():
                parameter.data = parameter.data.clone()
        if name.startswith("roster") or name == "memory":
            began = time.perf_counter()
            model(ids[:, :512], use_cache=False, logits_to_keep=1)
            found["prefill_512_s"] = time.perf_counter() - began
            if name.startswith("roster"):
                found["prefill_bytes"] = model.offload.statistics.total.nbytes
        cache, times = None, []
        for position in range(tokens):
            began = time.perf_counter()
            out = model(ids[:, 512 + position, None], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            times.append(time.perf_counter() - began)
        found["tokens_per_s"] = 1 / statistics.median(times)
        if name.startswith("roster"):
            found["cache"] = {k: v for k, v in model.offload.statistics.to_json().items() if k != "layers"}
            model.offload.close()
    found["peak_mib"] = (peak.peak - peak.before) / 2**20
    return found


def budget_of(folder, percent):
    """Bytes of all weights, with so many of the experts in slots."""
    from roster.offload.engine import BUFFERS

    slots = EXPERTS * len(list(folder.glob("model-*.safetensors"))[1:]) * percent // 100
    return rest_bytes(folder) + slots * EXPERT_BYTES + BUFFERS * EXPERT_BYTES * 2 // 3


def rest_bytes(folder):
    """Of all tensors that are no expert's."""
    from roster.weights.source import open_checkpoint

    places = open_checkpoint(folder).places
    return sum(place.spec.nbytes for name, place in places.items() if ".experts." not in name)


def disk_speed(folder):
    """Bytes per second of direct reads of 4 MiB, one after the other."""
    from roster.offload.reading import Files

    file = sorted(folder.glob("model-*.safetensors"))[0]
    files = Files([file], direct=True)
    size = min(file.stat().st_size, 512 * 2**20)
    into = memoryview(bytearray(size))
    began = time.perf_counter()
    files.read(file, 0, into)
    return {"bytes_per_s": size / (time.perf_counter() - began), "direct": files.direct}


def apart(name, folder, tokens):
    """A contender in a process of its own, forked from one that has imported everything and computed nothing."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    percent = int(name.split(":")[1]) if name.startswith("roster") else 50
    limit = Limit(budget_of(folder, percent) + 300 * 2**20)
    process = multiprocessing.get_context("fork").Process(
        target=lambda: sending.send(case(name, folder, tokens, limit)), daemon=True
    )
    process.start()
    sending.close()
    try:
        return receiving.recv()
    except EOFError:
        return {"failed": "see its output"}
    finally:
        process.join()
        limit.remove()


def large(work, layers, tokens):
    import torch
    import transformers

    import roster.offload.loading  # noqa: F401  (before the memory is measured)

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = work / f"mixtral-{layers}"
    maker = multiprocessing.get_context("fork").Process(target=make_large, args=(folder, layers))
    maker.start()
    maker.join()
    found = {"layers": layers, "experts_gib": layers * EXPERTS * EXPERT_BYTES / 2**30}
    runs = {"memory": tokens, "roster:50:fate-offload": tokens, "roster:50:lru": tokens}
    runs |= {"roster:25:fate-offload": tokens, "accelerate": max(2, tokens // 4)}
    for name, count in runs.items():
        found[f"disk before {name}"] = disk_speed(folder)
        found[name] = apart(name, folder, count)
        print(name, found[name], flush=True)
    judge(found)
    return found


def judge(found):
    """Ratios. A prefill cannot be faster than the disk gives the experts, nor than the model in memory."""
    memory, other = found["memory"], found["accelerate"]
    for name in [name for name in found if name.startswith("roster")]:
        each = found[name]
        each["over_budget_mib"] = each["peak_mib"] - each["budget_mib"]
        each["of_memory_speed"] = each["tokens_per_s"] / memory["tokens_per_s"]
        each["times_accelerate"] = each["tokens_per_s"] / other["tokens_per_s"]
        reading = each["prefill_bytes"] / found[f"disk before {name}"]["bytes_per_s"]
        each["prefill_of_disk_bound"] = reading / each["prefill_512_s"]
        each["prefill_of_floor"] = max(reading, memory["prefill_512_s"]) / each["prefill_512_s"]


# ---- the small trained one -------------------------------------------------------------------------------------------


def train_small(folder, steps):
    """Six layers of eight experts, trained on the source of Python's own library, byte by byte."""
    import torch
    import transformers

    if (folder / "config.json").is_file():
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        **{"vocab_size": 256, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 6},
        **{"num_attention_heads": 4, "num_key_value_heads": 4, "num_local_experts": 8, "num_experts_per_tok": 2},
        **{"output_router_logits": True, "router_aux_loss_coef": 0.02, "max_position_embeddings": 512},
    )
    model = transformers.MixtralForCausalLM(config).train()
    text = torch.frombuffer(bytearray(library()), dtype=torch.uint8).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        starts = torch.randint(0, len(text) - 129, (8,)).tolist()
        ids = torch.stack([text[start : start + 128] for start in starts])
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {float(loss):.2f}", flush=True)
    config.output_router_logits = False
    model.eval().save_pretrained(folder)


def library():
    files = sorted(Path(json.__file__).parents[1].glob("*.py"))
    return b"\n".join(each.read_bytes() for each in files)[:4_000_000]


def small_routes(work, steps):
    import torch
    import transformers

    from roster.offload import read_routes, recording

    folder, file = work / "small", work / "small.routes"
    train_small(folder, steps)
    if not file.is_file():
        torch.set_num_threads(1)
        model = transformers.MixtralForCausalLM.from_pretrained(folder).eval()
        text = library()
        draw = np.random.default_rng(1)
        with recording(model, prompt=64) as recorder, torch.inference_mode():
            for start in draw.integers(0, len(text) - 257, 60):
                model(torch.frombuffer(bytearray(text[start : start + 256]), dtype=torch.uint8).long()[None])
        recorder.routes().write(file)
    return folder, read_routes(file)


def small(work, steps):
    import torch
    import transformers

    from roster.offload import load, simulate
    from roster.offload.loading import find_strategy
    from roster.offload.simulator import bound

    torch.set_num_threads(1)
    folder, routes = small_routes(work, steps)
    learned, judged = routes.split(seed=0)
    found = {"decisions": judged.decisions, "steps": steps}
    chosen, ahead = judged.chosen_NLK[:, 1:], judged.ahead_NLA[:, 1:, :2]
    popular = np.argsort(-np.sum(list(learned.matrices()), axis=0), axis=1)[None, 1:, :2]
    for name, guess in (("next gate", ahead), ("popularity", popular)):
        found[f"recall of {name}"] = float((chosen[..., None] == guess[:, :, None, :]).any(-1).mean())
    for share in (25, 50):
        slots = 48 * share // 100
        figures = {"belady": bound(judged, slots).total.misses}
        for name in ("lru", "lfu", "arc", "fifo", "fate-offload", "moe-infinity", "expertflow", "moe-deployment"):
            total = simulate(judged, find_strategy(name), slots, learned).total
            figures[name] = {
                "hit_rate": total.hit_rate,
                "misses": total.misses,
                "ahead": total.ahead,
                "useful": total.useful,
            }
        figures["fate misses / lru misses"] = figures["fate-offload"]["misses"] / figures["lru"]["misses"]
        found[f"{share} %"] = figures
        print(share, figures, flush=True)
    whole = transformers.MixtralForCausalLM.from_pretrained(folder).eval()
    for parameter in whole.parameters():
        parameter.data = parameter.data.clone()
    expert = 3 * 128 * 192 * 4
    rest = rest_bytes(folder)
    models = {
        "memory": whole,
        "fate-offload": load(folder, rest + 26 * expert),
        "lru": load(folder, rest + 26 * expert, policy="lru"),
    }
    prompt = torch.frombuffer(bytearray(library()[10_000:10_064]), dtype=torch.uint8).long()[None]
    speeds = {name: [] for name in models}
    for _ in range(5):
        for name, model in models.items():
            began = time.perf_counter()
            model.generate(prompt, max_new_tokens=48, do_sample=False, eos_token_id=None, pad_token_id=0)
            speeds[name].append(48 / (time.perf_counter() - began))
    found["tokens_per_s"] = {name: statistics.median(each) for name, each in speeds.items()}
    for name in ("fate-offload", "lru"):
        pairs = zip(speeds[name], speeds["memory"], strict=True)
        found[f"{name}: tokens/s of memory"] = statistics.median(a / b for a, b in pairs)
        models[name].offload.close()
    return found


# ---- simulator and placements ----------------------------------------------------------------------------------------


def random_routes(tokens, layers, experts, k, seed=0):
    from roster.offload.strategy import Geometry
    from roster.offload.traces import NOBODY, Routes

    draw = np.random.default_rng(seed)
    favour = draw.gumbel(size=(layers, experts)) * 0.7
    score = favour + draw.gumbel(size=(tokens, layers, experts))
    chosen = np.argsort(-score, axis=-1)[..., :k].astype(np.int16)
    ahead = np.argsort(-(score + draw.normal(size=score.shape) * 0.3), axis=-1)[..., : k + 2].astype(np.int16)
    ahead[:, 0] = NOBODY
    starts = np.arange(0, tokens + 1, 500, dtype=np.int32)
    ids = draw.integers(0, 1000, tokens).astype(np.int32)
    prompts = np.full(len(starts) - 1, 32, np.int32)
    return Routes(chosen, ahead, ids, starts, prompts, Geometry((experts,) * layers, k, 1000), "random")


def simulator():
    from roster.offload import simulate
    from roster.offload.loading import find_strategy
    from roster.offload.simulator import bound

    routes = random_routes(21_000, 24, 8, 2)
    found = {"decisions": routes.decisions}
    for name in ("lru", "lfu", "arc", "fifo", "fate-offload", "moe-infinity", "moe-deployment"):
        began, cpu = time.perf_counter(), time.process_time()
        simulate(routes, find_strategy(name), 96)
        found[name] = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - began}
        print(name, found[name], flush=True)
    cpu = time.process_time()
    bound(routes, 96)
    found["belady"] = {"cpu_s": time.process_time() - cpu}
    return found


def place(work, steps):
    from roster.place.cost import cost_of
    from roster.place.exflow import exflow
    from roster.place.machine import Machine
    from roster.place.moetuner import moetuner
    from roster.place.simple import contiguous, greedy, random
    from roster.place.traffic import traffic_of

    _, routes = small_routes(work, steps)
    learned, judged = (traffic_of(each) for each in routes.split(seed=0))
    machine, found = Machine(8, 2), {}
    ways = {
        "exflow": lambda: exflow(learned, machine, seconds=20),
        "moetuner": lambda: moetuner(learned, machine, seconds=20),
        "greedy": lambda: greedy(learned, machine),
        "contiguous": lambda: contiguous(learned, machine),
    }
    for name, way in ways.items():
        made = way()
        found[name] = {**cost_of(made.placement, judged).to_json(), "gap": made.gap, "seconds": made.seconds}
    others = [cost_of(random(learned, machine, seed).placement, judged) for seed in range(20)]
    found["best of 20 random"] = {"crossings": min(each.crossings for each in others)}
    found["mean of 20 random"] = {"exchange": statistics.mean(each.exchange for each in others)}
    found["exflow crossings / contiguous"] = found["exflow"]["crossings"] / found["contiguous"]["crossings"]
    print(found, flush=True)
    return found


def moetuner_at_size():
    from roster.place.machine import Machine
    from roster.place.moetuner import moetuner
    from roster.place.traffic import traffic_of

    traffic, cpu = traffic_of(random_routes(4000, 24, 64, 4)), time.process_time()
    made = moetuner(traffic, Machine(8, 2), seconds=120)
    return {"gap": made.gap, "seconds": made.seconds, "cpu_s": time.process_time() - cpu}


def keep(part, figures):
    import accelerate
    import scipy
    import torch
    import transformers

    known = json.loads(OUT.read_text()) if OUT.is_file() else {}
    known[part] = {
        **figures,
        "about": {
            "date": datetime.date.today().isoformat(),
            "load": os.getloadavg(),
            "cores": os.cpu_count(),
            "machine": platform.processor() or platform.machine(),
            "versions": {each.__name__: each.__version__ for each in (torch, transformers, accelerate, scipy)},
        },
    }
    OUT.write_text(json.dumps(known, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "roster-offload")
    parser.add_argument("--layers", type=int, default=24, help="of the large model; 176 MB each")
    parser.add_argument("--tokens", type=int, default=24, help="decoded by each contender")
    parser.add_argument("--steps", type=int, default=300, help="of the small model's training")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    runs = {
        "simulator": simulator,
        "moetuner": moetuner_at_size,
        "place": lambda: place(given.work, given.steps),
        "small": lambda: small(given.work, given.steps),
        "large": lambda: large(given.work, given.layers, given.tokens),
    }
    for part in given.parts:
        keep(part, runs[part]())


if __name__ == "__main__":
    main()
