"""How upstreams are reached: proxies, headers, Azure's URLs; and what `--check` finds out about them."""

import contextlib
import json

import pytest
import yaml
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from typer.testing import CliRunner

from gateway.servers import running, settings, whole
from roster.cli import app
from roster.gateway import outbound
from roster.gateway.config import Upstream

ASK = [{"role": "user", "content": "count to three"}]


def up(**options):
    return Upstream.model_validate({"url": "https://api.example.org/v1"} | options)


def test_azure_urls_keep_their_query(start):
    seen = []

    async def deployment(request):
        seen.append((str(request.url).partition("/openai")[2], dict(request.headers)))
        return JSONResponse(whole(await request.json(), True, 0.9, "answers"))

    azure = Starlette(routes=[Route("/openai/deployments/gpt/chat/completions", deployment, methods=["POST"])])
    with running(azure) as url:
        upstream = {
            "url": f"{url}/openai/deployments/gpt?api-version=2024-10-21",
            "api_key": "azure-secret",
            "key_header": "api-key",
            "headers": {"x-team": "research"},
        }
        client, _ = start(upstreams={"up": upstream})
        assert client.chat.completions.create(model="small", messages=ASK).model == "small"
    (path, headers) = seen[0]
    assert path == "/deployments/gpt/chat/completions?api-version=2024-10-21"
    assert (headers["api-key"], headers["x-team"]) == ("azure-secret", "research")
    assert "authorization" not in headers


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert outbound.proxy(up()) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example.org,10.0.0.1")
    assert outbound.proxy(up()) == "http://proxy:3128"
    assert outbound.proxy(up(url="http://api.example.org/v1")) is None
    for url in (
        "https://inside.example.org/v1",
        "https://10.0.0.1/v1",
        "https://127.0.0.1:8/v1",
        "https://localhost/v1",
    ):
        assert outbound.proxy(up(url=url)) is None
    assert outbound.proxy(up(url="https://127.0.0.1/v1", proxy="http://mine:1")) == "http://mine:1"


def test_calls_go_through_the_proxy(start):
    seen = []

    async def proxy(scope, receive, send):
        while scope["type"] == "lifespan":
            await send({"type": (await receive())["type"] + ".complete"})
        # A proxy is asked for a whole URL, of which some servers tell the application no more than the path.
        seen.append((dict(scope["headers"])[b"host"], scope["path"].removeprefix("http://nowhere.invalid")))
        body = json.loads((await receive())["body"])
        await JSONResponse(whole(body, True, 0.9, "answers"))(scope, receive, send)

    with running(proxy) as url:
        reached = settings("http://nowhere.invalid")["upstreams"]["up"] | {"proxy": url}
        client, _ = start(upstreams={"up": reached})
        assert client.chat.completions.create(model="small", messages=ASK).model == "small"
    assert seen == [(b"nowhere.invalid", "/v1/chat/completions")]


def check(tmp_path, **config):
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(config))
    return CliRunner().invoke(app, ["gateway", str(file), "--check"])


@contextlib.contextmanager
def server(routes):
    with running(Starlette(routes=[Route(path, answer, methods=[method]) for method, path, answer in routes])) as url:
        yield url


async def wants_key(request):
    good = request.headers.get("authorization") == "Bearer upstream-secret-key"
    return JSONResponse({"data": [{"id": "secret-small"}, {"id": "secret-large"}]}, 200 if good else 401)


async def not_json(request):
    return PlainTextResponse("<html>welcome")


async def other_models(request):
    return JSONResponse({"data": [{"id": "secret-smal"}, {"id": "secret-large"}]})


async def empty_chat(request):
    return JSONResponse({"error": {"message": "messages: too short"}}, 422)


async def broken(request):
    return PlainTextResponse("", 503)


CASES = {
    "a URL where everything is 404": ([], {}, "has neither /models nor /chat/completions"),
    "a key that is refused": ([("GET", "/v1/models", wants_key)], {"api_key": "other-key"}, "does not accept the key"),
    "one of two keys": (
        [("GET", "/v1/models", wants_key)],
        {"api_key": None, "api_keys": ["upstream-secret-key", "other-key"]},
        "up (api_keys, number 2) does not accept",
    ),
    "no list": ([("GET", "/v1/models", not_json)], {}, "/models is no list of models"),
    "a model that is not there": ([("GET", "/v1/models", other_models)], {}, "models.small: the upstream up does not"),
    "broken": ([("GET", "/v1/models", broken)], {}, "answers with status 503"),
    "no list but chats": ([("POST", "/v1/chat/completions", empty_chat)], {}, None),
    "all is well": ([("GET", "/v1/models", wants_key)], {}, None),
    "a list that is not to be relied on": (
        [("GET", "/v1/models", other_models), ("POST", "/v1/chat/completions", empty_chat)],
        {"lists_models": False},
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_check_really_checks(case, tmp_path):
    routes, changes, words = CASES[case]
    with server(routes) as url:
        config = settings(url)
        config["upstreams"]["up"] |= changes
        result = check(tmp_path, **config)
    if words is None:
        assert result.exit_code == 0, result.output
    else:
        assert result.exit_code == 2
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    assert "other-key" not in result.output
