"""Clients that dawdle are cut, floods of log lines are limited, pages of other origins may call where it is allowed."""

import asyncio
import contextlib
import logging
import socket
import time

import pytest
import uvicorn
from starlette.responses import PlainTextResponse, StreamingResponse

from gateway.servers import on_loop
from roster.gateway.config import Listen
from roster.gateway.logs import RateLimit
from roster.gateway.serving import server_config


@contextlib.contextmanager
def listening(app, **listen):
    """The port of an app behind the gateway's own protocol."""
    config: uvicorn.Config = server_config(app, Listen(port=0, **listen))
    config.log_level = "critical"
    server = uvicorn.Server(config)
    config.load()
    config.lifespan = "off"
    server.lifespan = config.lifespan_class(config)
    on_loop(server.startup())
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.force_exit = True
        on_loop(server.shutdown())


async def hello(scope, receive, send):
    await PlainTextResponse("hello")(scope, receive, send)


async def endless(scope, receive, send):
    async def much():
        while True:
            await asyncio.sleep(0)
            yield b"x" * 65_536

    await StreamingResponse(much())(scope, receive, send)


def connected(port):
    made = socket.create_connection(("127.0.0.1", port), timeout=5)
    made.settimeout(5)
    return made


def is_cut(client):
    """Whether the other side has ended the connection, which must be within the socket's timeout."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def greeted(client):
    """Whether a whole answer comes."""
    told = b""
    while not told.endswith(b"hello") and (part := client.recv(4096)):
        told += part
    return told.endswith(b"hello")


WHOLE = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_a_head_that_does_not_come_is_not_waited_for(sent):
    with listening(hello, head=0.3, idle=3600) as port, connected(port) as client:
        client.sendall(sent)
        assert is_cut(client)


def test_nor_is_the_second_head_on_a_connection():
    with listening(hello, head=0.3, idle=3600) as port, connected(port) as client:
        client.sendall(WHOLE)
        assert greeted(client)
        time.sleep(0.5)
        client.sendall(WHOLE)  # idle for longer than a head may take is fine
        assert greeted(client)
        client.sendall(WHOLE[:10])
        assert is_cut(client)


def test_idle_connections_are_closed():
    with listening(hello, idle=1) as port, connected(port) as client:
        client.sendall(WHOLE)
        assert greeted(client)
        assert is_cut(client)


def test_more_connections_than_allowed_are_refused():
    with listening(hello, connections=2) as port, connected(port) as one, connected(port) as two:
        for client in (one, two):
            client.sendall(WHOLE)
            assert greeted(client)
        with connected(port) as three:
            assert is_cut(three)
        one.close()
        time.sleep(0.1)
        with connected(port) as again:
            again.sendall(WHOLE)
            assert greeted(again)


def test_a_client_that_does_not_read_is_cut():
    with listening(endless, stalled=0.3) as port, connected(port) as client:
        client.sendall(WHOLE)
        time.sleep(1.0)
        assert ends(client)


def ends(client):
    """Whether an answer that has no end of its own comes to one."""
    end = time.monotonic() + 5
    with contextlib.suppress(ConnectionResetError):
        while client.recv(1 << 20):
            if time.monotonic() > end:
                return False
    return True


def test_a_client_that_reads_is_not_cut():
    with listening(endless, stalled=0.3) as port, connected(port) as client:
        client.sendall(WHOLE)
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            assert client.recv(1 << 20)


def test_lines_are_limited_and_counted():
    now = 0.0
    limit = RateLimit(3, lambda: now)

    def passes(level=logging.INFO):
        record = logging.LogRecord("x", level, "", 0, "line", (), None)
        return record.getMessage() if limit.filter(record) else None

    assert [passes() for _ in range(5)] == ["line", "line", "line", None, None]
    assert passes(logging.ERROR) == "line"
    now = 1.0
    assert [passes() for _ in range(2)] == ["line (2 lines were left out)", "line"]
    assert limit.lines == 3


def test_cors(start, http):
    client, _ = start(listen={"cors": ["https://app.example.org"]})
    ask = {"origin": "https://app.example.org", "access-control-request-method": "POST"}
    ask["access-control-request-headers"] = "authorization,content-type"
    url = f"{client.base_url}chat/completions"
    allowed = http.options(url, headers=ask)
    assert allowed.status_code == 200, "a preflight carries no key"
    assert allowed.headers["access-control-allow-origin"] == "https://app.example.org"
    assert http.options(url, headers=ask | {"origin": "https://other.example.org"}).status_code == 400
    refused = http.post(url, headers={"origin": "https://app.example.org"}, json={})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example.org", "else the page cannot read it"


def test_without_cors_no_other_origin_is_allowed(start, http):
    client, _ = start()
    told = http.get(f"{client.base_url}models", headers={"origin": "https://app.example.org"})
    assert not any(name.startswith("access-control") for name in told.headers)


def test_head_and_single_models(start, http):
    client, _ = start()
    root = str(client.base_url).removesuffix("/v1/")
    for path in ("/health", "/metrics", "/v1/models"):
        answer = http.head(root + path, headers={"authorization": f"Bearer {client.api_key}"})
        assert (answer.status_code, answer.content) == (200, b"")
    assert client.models.retrieve("small").roster["kind"] == "model"
    assert client.models.retrieve("auto").id == "auto"
    with pytest.raises(Exception, match="did you mean 'small'"):
        client.models.retrieve("smal")
