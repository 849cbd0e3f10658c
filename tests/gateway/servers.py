"""Real servers on loopback: an upstream that misbehaves on demand, the gateway (both in threads of this process), and
a PostgreSQL of our own."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from roster.gateway.app import create_app
from roster.gateway.config_file import Config
from roster.gateway.gateway import Gateway

WORDS = ("one", " two", " three")


LOOP = asyncio.new_event_loop()
"""One for all servers, on a thread of its own."""
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def on_loop(work):
    """The result of a coroutine that runs where the servers do."""
    return asyncio.run_coroutine_threadsafe(work, LOOP).result(20)


@contextlib.contextmanager
def running(app):
    """The URL of an ASGI app that listens on a free port."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="on")
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    on_loop(server.startup())
    assert not server.should_exit, "the server did not start"
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.force_exit = True  # whoever still hangs was meant to
        on_loop(server.shutdown())
        on_loop(server.lifespan.shutdown())  # which an impatient shutdown leaves out


class Upstream:
    """Speaks OpenAI's API. `does[model]` says how a model behaves (or works it out); requests are kept in `seen`."""

    def __init__(self):
        self.forget()
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self.answer, methods=["POST"]),
                Route("/v1/completions", self.answer, methods=["POST"]),
                Route("/v1/embeddings", self.embeddings, methods=["POST"]),
                Route("/v1/responses", self.responses, methods=["POST"]),
                Route("/v1/models", self.models),
                Route("/v1/health", lambda request: PlainTextResponse("", 200 if self.healthy else 503)),
            ]
        )

    def forget(self):
        """As new, for the next test."""
        self.does, self.seen, self.headers, self.raw = {}, [], [], []
        self.cancelled = threading.Event()
        self.confidence = 0.95
        self.healthy = True

    async def models(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": "secret-small"}, {"id": "secret-large"}]})

    async def embeddings(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        if isinstance(behaviour := self.does.get(body["model"]), Response):
            return behaviour
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        usage = {"prompt_tokens": 10, "total_tokens": 10}
        return JSONResponse({"object": "list", "data": data, "model": body["model"], "usage": usage, "odd": 1.0})

    async def responses(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        if isinstance(behaviour := self.does.get(body["model"]), Response):
            return behaviour
        text = {"type": "output_text", "text": "one two three", "annotations": []}
        message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
        usage = {"input_tokens": 10, "output_tokens": 3, "total_tokens": 13}
        whole = {"id": "resp", "object": "response", "created_at": 1, "status": "completed", "model": body["model"]}
        whole |= {"output": [message], "usage": usage, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
        if not body.get("stream"):
            return JSONResponse(whole)
        delta = {"type": "response.output_text.delta", "delta": "one two three", "item_id": "m", "output_index": 0}
        delta |= {"content_index": 0, "sequence_number": 0, "logprobs": []}
        done = {"type": "response.completed", "response": whole, "sequence_number": 1}
        events = [f"event: {each['type']}\n".encode() + sse(each) for each in (delta, done)]
        return StreamingResponse(iter(events), media_type="text/event-stream")

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        self.headers.append(dict(request.headers))
        self.raw.append(await request.body())
        chat = request.url.path.endswith("chat/completions")
        behaviour = self.does.get(body["model"], "answers")
        if callable(behaviour) and not isinstance(behaviour, Response):
            behaviour = behaviour(body, request.headers)
        if isinstance(behaviour, Response):
            return behaviour
        if behaviour == "hangs":
            await asyncio.sleep(30)
        if behaviour == "garbage" and not body.get("stream"):
            return PlainTextResponse("<html>not JSON")
        if body.get("stream"):
            return StreamingResponse(self.stream(body, chat, behaviour), media_type="text/event-stream")
        return JSONResponse(whole(body, chat, self.confidence, behaviour))

    async def stream(self, body, chat, behaviour):
        try:
            if behaviour == "garbage":
                yield "data: {nonsense\n\n"
                return
            for word in WORDS:
                yield sse(piece(body, chat, word))
                if behaviour == "endless":
                    await asyncio.sleep(30)
                if behaviour == "garbage later":
                    yield b"\xff\xfe\x00 nonsense\n\n"
                    return
                if behaviour == "stops":
                    return
                if behaviour == "error later":
                    yield sse({"error": {"message": f"secret {body['model']} at http://10.0.0.1"}})
                    return
            usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
            if behaviour == "like transformers":  # usage in the last chunk, and no [DONE]
                yield sse(piece(body, chat, "", "stop") | {"usage": usage})
                return
            yield sse(piece(body, chat, "", "stop"))
            if (body.get("stream_options") or {}).get("include_usage"):
                yield sse({"id": "x", "object": "y", "model": body["model"], "choices": [], "usage": usage})
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def whole(body, chat, confidence, behaviour):
    import math

    text = "".join(WORDS)
    choice = {"index": 0, "finish_reason": "stop"}
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    if body.get("logprobs") is not None and body["logprobs"] is not False:
        logs = [math.log(confidence)] * 3
        choice["logprobs"] = {"content": [{"token": "x", "logprob": each} for each in logs]} if chat else None
        if not chat:
            choice["logprobs"] = {"tokens": ["x"] * 3, "token_logprobs": logs}
    answer = {
        "id": "upstream-id",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [choice],
    }
    if behaviour != "without usage":
        answer["usage"] = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    return answer


def piece(body, chat, text, finish=None):
    choice = {"index": 0, "finish_reason": finish}
    choice |= {"delta": {"content": text}} if chat else {"text": text}
    return {"id": "upstream-id", "object": "x", "created": 1, "model": body["model"], "choices": [choice]}


def sse(data):
    return f"data: {json.dumps(data)}\n\n".encode()


PATIENT = {"connect": 8.0, "first_token": 8.0, "total": 8.0}
BRIEF = {"connect": 1.5, "first_token": 1.5, "total": 1.5}


def settings(url, timeouts=PATIENT, **changes):
    """A config as a YAML file would give it: `small` and `large` at the upstream, under names of its own.

    Only a test that waits for a timeout is `BRIEF`: an upstream that has to answer may be on a busy machine.
    """
    return {
        "upstreams": {
            "up": {
                "url": f"{url}/v1",
                "api_key": "upstream-secret-key",
                "timeouts": dict(timeouts),
                "breaker": {"failures": 100, "cooldown": 0.2},
            }
        },
        "models": {
            "small": {"upstream": "up", "name": "secret-small", "price": {"input": 1.0, "output": 10.0}},
            "large": {"upstream": "up", "name": "secret-large", "price": {"input": 100.0, "output": 1000.0}},
        },
        "policies": {"auto": {"kind": "fixed", "models": ["small", "large"]}},
        "keys": {"alice": {"key": "alice-secret-0123456789"}, "bob": {"key": "bob-secret-9876543210"}},
    } | changes


SMALL_COST = (10 * 1.0 + 3 * 10.0) / 1e6
LARGE_COST = (10 * 100.0 + 3 * 1000.0) / 1e6


@contextlib.contextmanager
def gateway_of(config, folder):
    """(URL, gateway) of a gateway with a config as a dict."""
    gateway = Gateway(Config.model_validate(config), folder)
    with running(create_app(gateway)) as url:
        yield url, gateway


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def postgres():
    """The URL of a PostgreSQL server of our own.

    Its folder is none of pytest's: it runs as another user, and pytest shuts others out of its base at every start.
    """
    made = tempfile.TemporaryDirectory(prefix="roster-postgresql-", ignore_cleanup_errors=True)
    with made as folder, _postgres_in(Path(folder)) as server:
        yield server


@contextlib.contextmanager
def _postgres_in(folder):
    port, data = free_port(), folder / "data"
    # It refuses to run as root.
    user = {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}
    folder.chmod(0o777)
    home = Path(shutil.which("postgres")).resolve().parent
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    subprocess.run(
        [home / "initdb", "-D", data, "-U", "roster", "--no-sync", "-A", "trust"], check=True, **user, **quiet
    )
    options = ["-p", str(port), "-k", str(folder), "-h", "127.0.0.1", "-F"]
    with _postgres([home / "postgres", "-D", data, *options], **user, **quiet) as server:
        yield f"postgresql://roster@127.0.0.1:{port}/postgres", server


@contextlib.contextmanager
def _postgres(command, **how):
    server = subprocess.Popen(command, **how)
    server.started_with = command, how
    try:
        yield server
    finally:
        server.send_signal(signal.SIGINT)  # which does not wait for clients, as SIGTERM would
        server.wait(20)


def restarted(server):
    """The same PostgreSQL again, after its end."""
    command, how = server.started_with
    return _postgres(command, **how)


DATABASES = ["sqlite", *(["postgresql"] if shutil.which("postgres") else [])]
