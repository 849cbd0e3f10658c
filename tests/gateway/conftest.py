"""An upstream, and ways to start a gateway in front of it and to speak to it."""

import contextlib

import httpx
import openai
import pytest

from gateway.servers import Upstream, gateway_of, running, settings


@pytest.fixture(scope="session")
def only_upstream():
    fake = Upstream()
    with running(fake.app) as fake.url:
        yield fake


@pytest.fixture
def upstream(only_upstream):
    only_upstream.forget()
    return only_upstream


@pytest.fixture
def start(upstream, tmp_path):
    """`start(**changes)` -> (an openai client, the gateway)."""
    with contextlib.ExitStack() as stack:

        def begin(key="alice-secret-0123456789", **changes):
            url, gateway = stack.enter_context(gateway_of(settings(upstream.url, **changes), tmp_path))
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=10)
            stack.callback(client.close)
            return client, gateway

        yield begin


@pytest.fixture
def http():
    with httpx.Client(trust_env=False, timeout=10) as client:
        yield client
