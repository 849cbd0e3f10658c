"""Throughput of `roster serve` beside `transformers serve` of the plain base, on the same requests.

    python benchmarks/serve.py --adapters my-adapters            # the base: roster smol prepare
    python benchmarks/serve.py --adapters my-adapters --base DIR --count 8 --requests 16

Sixteen requests at once over eight adapters, sent by the openai client, against as many of the base alone at
`transformers serve`, with and without its continuous batching. Servers run one after the other; each answers one
request before it is timed. A row is tokens written per second of a whole round, by the servers' own usage.
Adapters answer shorter than the base does, so `roster serve` is measured with the base's answers as well. Results go to
benchmarks/results/serve.json with versions and machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
import openai
from rich.console import Console
from rich.table import Table

from roster.smol import base as smol

RESULTS = Path(__file__).parent / "results" / "serve.json"
READY_SECONDS = 600.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def server(command: Sequence[str], port: int) -> Iterator[str]:
    """The address of a server that answers /health, ended with the block."""
    process = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + READY_SECONDS
        while True:
            try:
                if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{command} does not answer")
            time.sleep(0.5)
        yield url
    finally:
        process.kill()  # asked kindly, `transformers serve` first finishes whatever it was asked
        process.wait(60)


def prompts(folder: Path, names: Sequence[str], count: int) -> list[tuple[str, str]]:
    """(adapter, prompt) for each request: the adapters in turn, each with the examples of its card."""
    cards = {name: json.loads((folder / name / "card.json").read_text(encoding="utf-8")) for name in names}
    asked = []
    for at in range(count):
        examples = cards[names[at % len(names)]]["examples"]
        text = examples[at // len(names) % len(examples)]
        asked.append((names[at % len(names)], text if isinstance(text, str) else text[-1]["content"]))
    return asked


def one(client: openai.OpenAI, model: str, prompt: str, tokens: int) -> int:
    """Tokens written for one request."""
    messages = [{"role": "user", "content": prompt}]
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=tokens, temperature=0.0)
    return answer.usage.completion_tokens


def measured(url: str, asked: Sequence[tuple[str, str]], tokens: int, rounds: int) -> dict[str, float]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=READY_SECONDS)
    rates, seconds = [], []
    with ThreadPoolExecutor(len(asked)) as pool:
        one(client, *asked[0], tokens)  # warms up
        for _ in range(rounds):
            begun = time.perf_counter()
            written = sum(pool.map(lambda each: one(client, *each, tokens), asked))
            seconds.append(time.perf_counter() - begun)
            rates.append(written / seconds[-1])
    told = {"tokens_per_second": statistics.median(rates), "seconds": statistics.median(seconds), "tokens": written}
    Console(stderr=True).print(told)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    base = options.base or smol.base_path()
    names = sorted(path.parent.name for path in options.adapters.glob("*/adapter_config.json"))[: options.count]
    asked = prompts(options.adapters, names, options.requests)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        experts, mixture = Path(folder) / "experts", Path(folder) / "mixture"
        experts.mkdir()
        for name in names:
            shutil.copytree(options.adapters / name, experts / name)
        roster = [sys.executable, "-m", "roster.cli"]
        subprocess.run(
            [*roster, "build", str(base), str(experts), "--router", "arrow-mbc", "--out", str(mixture)], check=True
        )
        port = free_port()
        with server([*roster, "serve", str(mixture), "--base", str(base), "--port", str(port)], port) as url:
            rows["roster serve, adapters"] = measured(url, asked, options.tokens, options.rounds)
            only = [("base", prompt) for _, prompt in asked]
            rows["roster serve, base"] = measured(url, only, options.tokens, options.rounds)
    for title, more in (("transformers serve", []), ("transformers serve, continuous", ["--continuous-batching"])):
        port = free_port()
        command = ["transformers", "serve", str(base), "--port", str(port), "--device", "cpu", *more]
        with server([str(Path(sys.executable).with_name(command[0])), *command[1:]], port) as url:
            theirs = [(str(base), prompt) for _, prompt in asked]
            rows[title] = measured(url, theirs, options.tokens, options.rounds)
    report(rows, vars(options))


def report(rows: dict[str, dict[str, float]], options: dict[str, object]) -> None:
    table = Table("", "tokens a second", "against transformers serve", "tokens", "seconds")
    reference = rows["transformers serve"]["tokens_per_second"]
    for title, row in rows.items():
        rate = row["tokens_per_second"]
        cells = (f"{rate:.1f}", f"{rate / reference:.2f}", f"{row['tokens']:.0f}", f"{row['seconds']:.1f}")
        table.add_row(title, *cells)
    Console().print(table)
    packages = {name: version(name) for name in ("torch", "transformers", "peft", "openai")}
    told = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": packages,
        "options": {name: str(value) for name, value in options.items() if name not in ("adapters", "base")},
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
