"""Clients that teams have, beside the openai package, which the other tests use: they need the extra `clients`."""

import pytest

from gateway.servers import WORDS
from gateway.test_refusals import calling, refusing

ASK = [{"role": "user", "content": "count to three"}]
CASCADE = {"auto": {"kind": "cascade", "steps": ["small", "large"], "escalate_below": 0.8}}
LOOK = {"name": "look", "description": "looks", "parameters": {"type": "object", "properties": {"at": {}}}}
TOOLS = [{"type": "function", "function": LOOK}]

pytestmark = pytest.mark.filterwarnings("ignore")
"""These packages warn about each other."""


@pytest.fixture
def langchain(start):
    package = pytest.importorskip("langchain_openai", reason="needs the extra clients")

    def made(**options):
        client, _ = start(**options)
        return package.ChatOpenAI(base_url=str(client.base_url), api_key=client.api_key, model="auto", max_retries=0)

    return made


@pytest.fixture
def litellm(start):
    package = pytest.importorskip("litellm", reason="needs the extra clients")

    def ask(model="auto", **options):
        changes = {name: options.pop(name) for name in ("policies",) if name in options}
        client, _ = start(**changes)
        url, key = str(client.base_url), client.api_key
        return package.completion(f"openai/{model}", ASK, base_url=url, api_key=key, max_retries=0, **options)

    ask.package = package
    return ask


@pytest.mark.parametrize("options", [{}, {"policies": CASCADE}])
def test_langchain_streams_and_counts_once(langchain, options):
    whole = None
    for chunk in langchain(**options).stream("count to three", stream_usage=True):
        whole = chunk if whole is None else whole + chunk
    assert whole.content == "".join(WORDS)
    assert whole.usage_metadata["total_tokens"] == 13
    assert whole.response_metadata["finish_reason"] == "stop"


def test_langchain_reads_calls_of_a_cascade(langchain, upstream):
    upstream.does["secret-small"] = calling('{"at": 1}')
    model = langchain(policies=CASCADE).bind_tools(TOOLS)
    whole = None
    for chunk in model.stream("look"):
        whole = chunk if whole is None else whole + chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("look", {"at": 1})] * 2


@pytest.mark.parametrize("policies", [CASCADE, None])
def test_litellm_streams(litellm, policies):
    chunks = list(litellm(stream=True, **({"policies": policies} if policies else {})))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(WORDS)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]


def test_litellm_knows_the_errors(litellm, upstream):
    too_long = {"message": "This model's maximum context length is 8 tokens.", "code": "context_length_exceeded"}
    upstream.does["secret-small"] = refusing(too_long)
    with pytest.raises(litellm.package.ContextWindowExceededError):
        litellm("small")
    upstream.does["secret-small"] = refusing({"message": "slow down"}, 429, retry_after="7")
    with pytest.raises(litellm.package.RateLimitError):
        litellm("small")
