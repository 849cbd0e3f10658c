"""Does the gateway last? Memory over many requests and slow streams, one budget under fire, a kill during feedback.

    python benchmarks/gateway_endurance.py                  # 20,000 requests, 200 slow streams; some minutes
    python benchmarks/gateway_endurance.py --requests 2000

The gateway is a process of its own (`roster gateway`), whose resident memory is read from /proc; an upstream that
answers at once, or one word at a time, is another; this one asks. Four things are looked at:

- memory after the first tenth of the requests and after all of them, and after the slow streams: flat within 10 %;
- fifty requests at once on a budget that does not reach for all of them: never more is spent;
- SIGKILL while scores pour in: every score that was acknowledged is in the store, and learned from.

Results go to benchmarks/results/gateway_endurance.json; what does not hold ends the program with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway import free_port, wait_for

RESULTS = Path(__file__).parent / "results" / "gateway_endurance.json"
KEY, POOR = "benchmark-key-0123456789", "benchmark-poor-0123456789"
USAGE = {"prompt_tokens": 500, "completion_tokens": 50, "total_tokens": 550}
PROMPT = "word another " * 250
CALL_COST = (500 * 0.1 + 50 * 0.4) / 1e6
BUDGET = 0.005
FLAT = 0.10


def config(upstream: int, port: int) -> str:
    """A rich key, and one with a budget that some fifty calls at once go beyond."""
    return f"""
listen: {{port: {port}}}
upstreams: {{up: {{url: "http://127.0.0.1:{upstream}/v1"}}}}
models:
  small: {{upstream: up, price: {{input: 0.1, output: 0.4}}}}
  large: {{upstream: up, price: {{input: 1.0, output: 4.0}}}}
policies: {{learning: {{kind: thompson}}}}
limits: {{remembered_bytes: 4194304}} # full after the first tenth, so that what grows later is a leak
keys:
  rich: {{key: {KEY}, budget: 100000.0, period: total}}
  poor: {{key: {POOR}, budget: {BUDGET}, period: total}}
"""


async def answer(request: Request) -> Response:
    """At once, or word by word over some seconds."""
    body = await request.json()
    if not body.get("stream"):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes " * 50}}
        return JSONResponse({"id": "x", "object": "chat.completion", "choices": [choice], "usage": USAGE})

    async def words() -> Any:
        for n in range(20):
            await asyncio.sleep(0.25)
            chunk = {
                "choices": [{"index": 0, "delta": {"content": "yes "}, "finish_reason": "stop" if n == 19 else None}]
            }
            yield f"data: {json.dumps(chunk)}\n\n"
        yield f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n\n"

    return StreamingResponse(words(), media_type="text/event-stream")


async def listed(request: Request) -> Response:
    return JSONResponse({"data": [{"id": "small"}, {"id": "large"}]})


def upstream(port: int) -> None:
    routes = [Route("/v1/chat/completions", answer, methods=["POST"]), Route("/v1/models", listed)]
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=port, log_level="error", timeout_keep_alive=60)


def megabytes(process: subprocess.Popen[bytes]) -> float:
    """Resident memory."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


class Asking:
    """Requests to one gateway."""

    def __init__(self, port: int) -> None:
        self.http = aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=0))

    async def chat(self, key: str = KEY, **more: Any) -> tuple[int, dict[str, Any]]:
        body = {"model": "learning", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 50} | more
        headers = {"authorization": f"Bearer {key}"}
        async with self.http.post("/v1/chat/completions", json=body, headers=headers) as told:
            if more.get("stream"):
                return told.status, {"whole": (await told.read()).endswith(b"data: [DONE]\n\n")}
            return told.status, await told.json()

    async def many(self, count: int, at_once: int) -> int:
        """So many, some at a time; how many failed."""
        left, failed = count, 0

        async def some() -> None:
            nonlocal left, failed
            while left > 0:
                left -= 1
                status, _ = await self.chat()
                failed += status != 200

        await asyncio.gather(*(some() for _ in range(at_once)))
        return failed


async def memory(asking: Asking, process: subprocess.Popen[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Megabytes after a tenth of the requests, after all, and after the streams."""
    failed = await asking.many(options.requests // 10, 50)
    early = megabytes(process)
    failed += await asking.many(options.requests - options.requests // 10, 50)
    late = megabytes(process)
    streams = await asyncio.gather(*(asking.chat(model="small", stream=True) for _ in range(options.streams)))
    failed += sum(not told.get("whole") for _, told in streams)
    after = megabytes(process)
    growth = max(late, after) / early - 1
    return {
        "requests": options.requests, "slow_streams": options.streams, "failed": failed,
        "mb_after_a_tenth": round(early, 1), "mb_after_all": round(late, 1), "mb_after_streams": round(after, 1),
        "growth": round(growth, 4), "holds": failed == 0 and growth <= FLAT,
    }  # fmt: skip


async def budget(asking: Asking, store: Path) -> dict[str, Any]:
    """Fifty at once, again and again, until nothing fits any more."""
    answered, rounds = 0, 0
    while rounds < 20:
        rounds += 1
        statuses = [
            status for status, _ in await asyncio.gather(*(asking.chat(POOR, model="small") for _ in range(50)))
        ]
        answered += statuses.count(200)
        if not statuses.count(200):
            break
    with contextlib.closing(sqlite3.connect(store)) as database:
        used = database.execute("SELECT used FROM spending WHERE name = 'poor'").fetchone()[0] / 1e9
    exact = abs(used - answered * CALL_COST) < 1e-12
    return {
        "rounds_of_fifty": rounds, "answered": answered, "spent": used, "budget": BUDGET,
        "holds": used <= BUDGET and exact and answered > 0,
    }  # fmt: skip


async def killed(asking: Asking, process: subprocess.Popen[bytes], store: Path) -> dict[str, Any]:
    """Scores pour in, the gateway is killed; what was acknowledged is there."""
    acknowledged: list[str] = []

    async def pour() -> None:
        with contextlib.suppress(aiohttp.ClientError):
            while True:
                _, call = await asking.chat()
                body, headers = {"id": call["id"], "score": 0.75}, {"authorization": f"Bearer {KEY}"}
                async with asking.http.post("/v1/feedback", json=body, headers=headers) as told:
                    if (await told.json())["learned"]:
                        acknowledged.append(call["id"])

    pouring = [asyncio.create_task(pour()) for _ in range(8)]
    while len(acknowledged) < 200:
        await asyncio.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    await asyncio.gather(*pouring)
    process.wait()
    with contextlib.closing(sqlite3.connect(store)) as database:
        scored = {row[0] for row in database.execute("SELECT call FROM feedback")}
        calls = {row[0] for row in database.execute("SELECT id FROM calls")}
        versions = database.execute("SELECT version FROM learned").fetchone()[0]
    lost = [call for call in acknowledged if call not in scored or call not in calls]
    return {
        "acknowledged": len(acknowledged), "lost": len(lost), "learned_versions": versions,
        "holds": not lost and versions == len(scored) >= len(acknowledged),
    }  # fmt: skip


async def everything(
    port: int, process: subprocess.Popen[bytes], store: Path, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    asking = Asking(port)
    try:
        found = {"memory": await memory(asking, process, options)}
        print("memory", found["memory"], flush=True)
        found["budget"] = await budget(asking, store)
        found["killed"] = await killed(asking, process, store)
    finally:
        await asking.http.close()
    return found


@contextlib.contextmanager
def running(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway with its upstream."""
    behind = free_port()
    file = folder / "gateway.yaml"
    file.write_text(config(behind, port))
    command = [sys.executable, "-c", "from roster.cli import main; main()", "gateway", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        processes = [
            subprocess.Popen([sys.executable, __file__, "--upstream", str(behind)]),
            subprocess.Popen(command, stderr=log, env=environment),
        ]
        try:
            wait_for(f"http://127.0.0.1:{port}/health", processes[1])
            yield processes[1]
        finally:
            for process in processes:
                process.kill()
                process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=200, help="at once, of five seconds each")
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)  # this file is also the upstream's process
    options = parser.parse_args()
    if options.upstream:
        upstream(options.upstream)
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as name, running(Path(name), port) as process:
        found = asyncio.run(everything(port, process, Path(name) / "gateway.db", options))
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    versions = {each: version(each) for each in ("roster-moe", "uvicorn", "fastapi", "aiohttp")}
    about = {"date": datetime.date.today().isoformat(), "machine": machine, "versions": versions}
    RESULTS.write_text(json.dumps(about | found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    broken = [name for name, row in found.items() if not row["holds"]]
    if broken:
        sys.exit(f"does not hold: {', '.join(broken)}")


if __name__ == "__main__":
    main()
