"""What the gateway adds to a call: latency beside a direct call to the same upstream, at a fixed rate of requests.

    python benchmarks/gateway.py                       # 200 requests per second, three rounds of 8 s per row
    python benchmarks/gateway.py --rate 400 --seconds 4

An upstream that answers at once, the gateway and this load generator are three processes on one machine, so they share
its cores. Requests start on a fixed schedule whether or not earlier ones have been answered, over kept-alive
connections; the prompt has about 500 tokens. Rows are measured in turn, round after round; a figure is over all
requests of all rounds. Results go to benchmarks/results/gateway.json with versions, machine and load average.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "gateway.json"
KEY = "benchmark-key-0123456789"
PROMPT = "word another " * 250
ANSWER = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes " * 50}}],
        "usage": {"prompt_tokens": 500, "completion_tokens": 50, "total_tokens": 550},
    }
).encode()
ROWS = {
    "direct": None,
    "gateway, model by name": "small",
    "gateway, policy `cheapest`": "cheap",
    "gateway, policy `thompson`": "learning",
}
LIMIT_MS = 5.0


def config(upstream: int, port: int) -> str:
    """A key with a budget, so that every call is reserved, settled and recorded in the store."""
    return f"""
listen: {{port: {port}}}
upstreams: {{up: {{url: "http://127.0.0.1:{upstream}/v1"}}}}
models:
  small: {{upstream: up, price: {{input: 0.1, output: 0.4}}}}
  large: {{upstream: up, price: {{input: 1.0, output: 4.0}}}}
policies:
  cheap: {{kind: cheapest}}
  learning: {{kind: thompson}}
keys: {{bench: {{key: {KEY}, budget: 100000.0}}}}
"""


async def upstream(port: int) -> None:
    """Answers every request at once, whatever it says."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(ANSWER)}\r\n\r\n".encode()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await read_message(reader)
                writer.write(head + ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """First line and body of a request or response that declares its length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head.split(b"\r\n", 1)[0], await reader.readexactly(length)


async def measure(port: int, model: str, rate: float, seconds: float) -> tuple[list[float], int]:
    """Seconds of every answered request, and how many failed."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 64}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    free: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
    times, failed = [], 0

    async def one() -> None:
        nonlocal failed
        begun = time.perf_counter()
        try:
            reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + body)
            status, answer = await asyncio.wait_for(read_message(reader), 30)
            took = time.perf_counter() - begun
            free.append((reader, writer))
            if b" 200 " not in status or b'"choices"' not in answer:
                raise ConnectionError(status)
            times.append(took)
        except (OSError, EOFError, TimeoutError):
            failed += 1

    start, tasks = time.perf_counter(), []
    for n in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, start + n / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)
    for _, writer in free:
        writer.close()
    return times, failed


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        if process.poll() is not None:
            sys.exit("the gateway did not start")
        try:
            opener.open(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)


async def rounds(ports: dict[str, int], rate: float, seconds: float, count: int) -> dict[str, dict]:
    """Every row in turn, `count` times, after a warm-up."""
    found: dict[str, dict] = {name: {"times": [], "failed": 0} for name in ROWS}
    for at in range(count + 1):
        for name, model in ROWS.items():
            port = ports["upstream" if model is None else "gateway"]
            times, failed = await measure(port, model or "small", rate, seconds if at else 1.0)
            if at:
                found[name]["times"] += times
                found[name]["failed"] += failed
    return found


def summary(found: dict[str, dict]) -> dict[str, dict]:
    rows = {}
    for name, row in found.items():
        times = [each * 1000 for each in row["times"]]
        rows[name] = {
            "requests": len(times) + row["failed"],
            "failed": row["failed"],
            "median_ms": round(statistics.median(times), 3),
            "p99_ms": round(statistics.quantiles(times, n=100)[98], 3),
        }
    for row in rows.values():
        row["added_median_ms"] = round(row["median_ms"] - rows["direct"]["median_ms"], 3)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=8.0, help="per row and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)  # this file is also the upstream's process
    options = parser.parse_args()
    if options.upstream:
        asyncio.run(upstream(options.upstream))
        return
    ports = {"upstream": free_port(), "gateway": free_port()}
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.yaml"
        file.write_text(config(ports["upstream"], ports["gateway"]))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", "from roster.cli import main; main()", "gateway", str(file)]
        with open(Path(folder) / "log", "wb") as log:
            processes = [
                subprocess.Popen([sys.executable, __file__, "--upstream", str(ports["upstream"])]),
                subprocess.Popen(command, stderr=log, env=environment),
            ]
            try:
                wait_for(f"http://127.0.0.1:{ports['gateway']}/health", processes[1])
                found = summary(asyncio.run(rounds(ports, options.rate, options.seconds, options.rounds)))
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
    report(found, options, load_before)


def report(rows: dict[str, dict], options: argparse.Namespace, load_before: float) -> None:
    table = Table("row", "requests", "failed", "median ms", "p99 ms", "added to the median, ms")
    for name, row in rows.items():
        table.add_row(
            name, *(str(row[key]) for key in ("requests", "failed", "median_ms", "p99_ms", "added_median_ms"))
        )
    Console().print(table)
    held = all(row["added_median_ms"] < LIMIT_MS and row["failed"] == 0 for row in rows.values())
    print(f"under {LIMIT_MS} ms at the median, no failed request: {'yes' if held else 'no'}")
    record = {
        "rows": rows,
        "held": held,
        "limit_ms": LIMIT_MS,
        "rate_per_second": options.rate,
        "seconds_per_round": options.seconds,
        "rounds": options.rounds,
        "load_average_before": round(load_before, 2),
        "load_average_after": round(os.getloadavg()[0], 2),
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("aiohttp", "fastapi", "starlette", "uvicorn")},
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
