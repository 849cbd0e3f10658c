"""A server of the pocket mixture on loopback, and real clients for it."""

import contextlib

import httpx
import openai
import pytest

from gateway.servers import running
from roster import load, pocket
from roster.serve.app import create_app
from roster.serve.serving import Bounds, make_server


@pytest.fixture(scope="session")
def mixture():
    return load("pocket", experts=pocket.experts_path(), router="arrow-mbc").eval()


@pytest.fixture(scope="session")
def only_server(mixture):
    """(URL, server), for all tests that need nothing of their own."""
    server = make_server(mixture, Bounds(rows=4, max_tokens=24))
    with running(create_app(server)) as url:
        yield url, server


@pytest.fixture
def client(only_server):
    with openai.OpenAI(base_url=f"{only_server[0]}/v1", api_key="none", max_retries=0, timeout=600) as made:
        yield made


@pytest.fixture
def http(only_server):
    with httpx.Client(base_url=only_server[0], trust_env=False, timeout=600) as made:
        yield made


@pytest.fixture
def start(mixture):
    """`start(api_key=None, **bounds)` -> (URL, server) of a server of one's own."""
    with contextlib.ExitStack() as stack:

        def begin(api_key=None, **bounds):
            server = make_server(mixture, Bounds(**bounds))
            app = create_app(server, api_key, server_bytes(bounds))
            return stack.enter_context(running(app)), server

        yield begin


def server_bytes(bounds):
    return bounds.get("request_bytes", Bounds().request_bytes)
