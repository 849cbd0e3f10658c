"""`roster serve` through the openai package: answers are those of `generate`, and errors are such as clients know."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
import torch
from typer.testing import CliRunner

from gateway.servers import running
from roster import load, pocket
from roster.cli import app
from roster.errors import RosterError
from roster.folders import load_folder
from roster.gateway.config import Listen
from roster.library import Library
from roster.serve.app import create_app
from roster.serve.mixture import ServedMixture
from roster.serve.serving import check_reach, serve

PROMPTS = ["reverse: abcd =", "sort: dbca =", "upper: abc =", "reverse: xyz & sort: dbca ="]


def chat(client, model, prompt, **more):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], **more)


def alone(mixture, name, prompt, limit=12):
    """The same by forward passes over everything so far, without a cache, or by `generate` for the router."""
    inputs = mixture.inputs(prompt)
    ids_1S, end = inputs["input_ids"], mixture.roster.tokenizer.eos_token_id
    start = ids_1S.shape[1]
    with torch.inference_mode():
        if name == "auto":
            ids_1S = mixture.generate(**inputs, max_new_tokens=limit, do_sample=False)
        while name != "auto" and ids_1S.shape[1] < start + limit and int(ids_1S[0, -1]) != end:
            gates = torch.tensor([[float(name == each) for each in mixture.roster.experts]])
            logits = mixture(input_ids=ids_1S, gates=gates).logits
            ids_1S = torch.cat([ids_1S, logits[:, -1:].argmax(-1)], dim=1)
    return mixture.roster.tokenizer.decode(ids_1S[0, start:], skip_special_tokens=True)


def test_concurrent_requests_with_different_adapters_answer_as_alone(client, mixture, only_server):
    names = ["auto", "base", *mixture.roster.experts]
    asked = [(names[at % len(names)], PROMPTS[at % len(PROMPTS)]) for at in range(10)]
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda each: chat(client, *each, max_tokens=12), asked))
    assert [each.choices[0].message.content for each in found] == [alone(mixture, *each) for each in asked]
    for (name, _), answer in zip(asked, found, strict=True):
        assert (answer.model, answer.choices[0].finish_reason in ("stop", "length")) == (name, True)
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        told = answer.roster
        expected = {"base": {}, "auto": told["on_duty"]}.get(name, {name: 1.0})
        assert (told["on_duty"], told["recipe"], told["id"]) == (expected, "arrow-mbc", answer.id)
    assert only_server[1].engine.stepped > only_server[1].engine.steps


@pytest.mark.parametrize("model", ["auto", "base"])
def test_a_stream_says_the_same(client, model):
    whole = chat(client, model, PROMPTS[0], max_tokens=12)
    *chunks, last = chat(client, model, PROMPTS[0], max_tokens=12, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == whole.choices[0].finish_reason
    assert (last.usage.total_tokens, last.roster["on_duty"]) == (whole.usage.total_tokens, whole.roster["on_duty"])
    with client.chat.completions.stream(
        model=model, messages=[{"role": "user", "content": PROMPTS[0]}], max_tokens=12
    ) as events:
        assert events.get_final_completion().choices[0].message.content == whole.choices[0].message.content


def test_completions_go_on_from_the_text(client, mixture):
    name = mixture.roster.experts[0]
    whole = client.completions.create(model=name, prompt=PROMPTS[0], max_tokens=12)
    assert whole.choices[0].text == alone(mixture, name, PROMPTS[0])
    told = client.completions.create(model=name, prompt=PROMPTS[0], max_tokens=12, stream=True)
    assert "".join(chunk.choices[0].text for chunk in told) == whole.choices[0].text


def test_an_answer_goes_on_behind_its_end_where_that_is_asked_for(client):
    for stream in (False, True):
        asked = {"max_tokens": 20, "stream": stream, "extra_body": {"ignore_eos": True}}
        told = chat(
            client, "reverse", PROMPTS[0], **asked, **({"stream_options": {"include_usage": True}} if stream else {})
        )
        usage = [each.usage for each in told][-1] if stream else told.usage
        assert usage.completion_tokens == 20
    assert chat(client, "reverse", PROMPTS[0], max_tokens=20).usage.completion_tokens < 20


def test_a_mixture_that_is_built_anew_in_its_place_changes_nothing_under_a_running_server(mixture, tmp_path):
    """The folder is swapped as a whole; what is served was read once."""
    folder = tmp_path / "m"
    mixture.save_pretrained(folder)
    server = make(load_folder(folder).eval())
    with running(create_app(server)) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        before = chat(client, "sort", PROMPTS[1], max_tokens=12).choices[0].message.content
        library = Library.read(pocket.experts_path())
        load("pocket", experts=Library({"upper": library["upper"]}), router="uniform").save_pretrained(folder)
        after = chat(client, "sort", PROMPTS[1], max_tokens=12).choices[0].message.content
        assert (after, "sort" in [each.id for each in client.models.list()]) == (before, True)


def test_several_answers_to_one_request(client, only_server):
    """Each draws by a seed of its own: the first as with n=1, the others as with the seeds behind it."""
    more = {"max_tokens": 8, "temperature": 1.5, "seed": 3}
    whole = chat(client, "base", PROMPTS[0], n=3, **more)
    assert [each.index for each in whole.choices] == [0, 1, 2]
    texts = [each.message.content for each in whole.choices]
    alone = [chat(client, "base", PROMPTS[0], **more | {"seed": seed}) for seed in (3, 4, 5)]
    assert texts == [each.choices[0].message.content for each in alone]
    assert len(set(texts)) > 1
    assert whole.usage.completion_tokens == sum(each.usage.completion_tokens for each in alone)
    assert whole.usage.prompt_tokens == alone[0].usage.prompt_tokens
    told, ends = [""] * 3, [None] * 3
    *chunks, last = chat(client, "base", PROMPTS[0], n=3, stream=True, stream_options={"include_usage": True}, **more)
    for choice in (chunk.choices[0] for chunk in chunks):
        told[choice.index] += choice.delta.content or ""
        ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert (told, ends) == (texts, [each.finish_reason for each in whole.choices])
    assert last.usage == whole.usage
    text = client.completions.create(model="auto", prompt=PROMPTS[0], n=2, max_tokens=4)
    assert text.choices[0].text == text.choices[1].text, "the likeliest tokens are the same"
    deadline = time.monotonic() + 20
    while only_server[1].engine.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert only_server[1].engine.running == 0


def flood(client):
    for _ in range(20):
        chat(client, "base", "x", n=16, max_tokens=8)


def test_answers_that_do_not_all_fit_are_refused_together(start, mixture):
    url, _ = start(waiting=2)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        for count in (17, 0):
            with pytest.raises(openai.BadRequestError):
                chat(client, "base", "x", n=count, max_tokens=2)
        with pytest.raises(openai.InternalServerError, match="As many requests wait"):
            flood(client)
        assert chat(client, "base", "x", n=2, max_tokens=2).choices[1].index == 1


def test_a_stop_word_ends_an_answer(client):
    text = chat(client, "base", PROMPTS[0], max_tokens=12).choices[0].message.content
    word = text[2:4]
    expected = text[: text.index(word)]
    for stream in (False, True):
        told = chat(client, "base", PROMPTS[0], max_tokens=12, stop=[word, "never"], stream=stream)
        if stream:
            assert "".join(chunk.choices[0].delta.content or "" for chunk in told if chunk.choices) == expected
        else:
            assert (told.choices[0].message.content, told.choices[0].finish_reason) == (expected, "stop")


def test_the_models_are_listed(client, mixture):
    assert [each.id for each in client.models.list()] == ["auto", "base", *mixture.roster.experts]
    assert client.models.retrieve("auto").roster == {"kind": "router", "recipe": "arrow-mbc"}
    assert client.models.retrieve(mixture.roster.experts[0]).roster["kind"] == "adapter"
    with pytest.raises(openai.NotFoundError, match="did you mean 'base'"):
        client.models.retrieve("bases")
    with pytest.raises(openai.NotFoundError) as caught:
        chat(client, "nobody", "x")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_what_does_not_fit_is_told_before_any_work(client, mixture, only_server):
    steps, context = only_server[1].engine.steps, only_server[1].mixture.context
    with pytest.raises(openai.BadRequestError, match=f"maximum context length is {context} tokens") as caught:
        chat(client, "auto", "a" * 40_000)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError, match="At most 24 tokens"):
        chat(client, "auto", "x", max_tokens=25)
    for name, value in (
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("frequency_penalty", 0.5),
    ):
        with pytest.raises(openai.BadRequestError, match=f"`{name}` is not supported") as caught:
            chat(client, "auto", "x", extra_body={name: value})
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, "auto", picture)
    assert caught.value.code == "unsupported_modality"
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model="auto", messages=[{"role": "system", "content": "x"}])
    assert only_server[1].engine.steps == steps
    chat(client, "auto", PROMPTS[0], extra_body={"n": 1, "tools": [], "frequency_penalty": 0}, max_tokens=1)


def endless(url, stream=True):
    body = {"model": "base", "messages": [{"role": "user", "content": "a"}], "stream": stream, "max_tokens": 100_000}
    return {"url": f"{url}/v1/chat/completions", "json": body}


@pytest.fixture
def unending(start, mixture, monkeypatch):
    """(URL, server) with one row, whose answers have no end."""
    url, server = start(rows=1, waiting=1, max_tokens=100_000)
    monkeypatch.setattr(server.mixture, "ends", frozenset())
    monkeypatch.setattr(server.mixture, "context", None)
    return url, server


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_row(unending, http, stream):
    url, server = unending
    with httpx.Client(trust_env=False, timeout=600) as leaving:
        if stream:
            with leaving.stream("POST", **endless(url)) as response:
                lines = response.iter_lines()
                assert any('"content"' in next(lines) for _ in range(6))
        else:
            thread = threading.Thread(target=lambda: suppress_all(leaving, url))
            thread.start()
            assert eventually(lambda: server.engine.running == 1)
            leaving.close()
            thread.join()
    assert eventually(lambda: server.engine.running == 0)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as client:
        assert chat(client, "base", "a", max_tokens=2).usage.completion_tokens == 2
    assert 'finish="abandoned"' in httpx.get(f"{url}/metrics", trust_env=False).text


def suppress_all(client, url):
    with httpx.Client(trust_env=False, timeout=1.0) as brief, pytest.raises(httpx.ReadTimeout):
        brief.post(**endless(url, stream=False))


def eventually(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_a_full_queue_refuses(unending, http):
    url, server = unending
    with httpx.Client(trust_env=False, timeout=600) as one, one.stream("POST", **endless(url)):
        assert eventually(lambda: server.engine.running == 1)
        with one.stream("POST", **endless(url)):
            assert eventually(lambda: server.engine.waiting == 1)
            refused = one.post(**endless(url))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
    assert refused.headers["retry-after"] == "1"


def test_the_key_and_the_size_of_a_request(start):
    url, _ = start(api_key="a-secret-of-the-owner", request_bytes=2048)
    headers = {"authorization": "Bearer a-secret-of-the-owner"}
    with httpx.Client(base_url=url, trust_env=False, timeout=600) as http:
        assert http.get("/v1/models").status_code == 401
        assert http.get("/v1/models", headers={"authorization": "Bearer other"}).json()["error"]["code"]
        assert http.get("/v1/models", headers=headers).status_code == 200
        assert http.get("/health").json() == {"status": "ok"}
        large = http.post("/v1/completions", json={"model": "base", "prompt": "a" * 4096}, headers=headers)
        assert large.status_code == 413
    with pytest.raises(RosterError, match="--api-key"):
        check_reach("0.0.0.0", None)
    check_reach("0.0.0.0", "a key")


def test_errors_are_openais(http):
    for path, content, code in (
        ("/v1/chat/completions", "{nonsense", "invalid_request"),
        ("/v1/chat/completions", '{"model": "base"}', "invalid_request"),
        ("/v1/completions", '{"model": "base", "prompt": []}', "invalid_request"),
        ("/v1/nothing", "{}", "not_found"),
    ):
        told = http.post(path, content=content, headers={"content-type": "application/json"})
        assert (told.status_code in (400, 404), told.json()["error"]["code"]) == (True, code)


def test_the_trace_is_the_models(http, mixture):
    import roster

    told = http.post("/v1/trace", json={"model": "auto", "prompt": PROMPTS[3], "answer": "zyx"}).json()
    ids = mixture.inputs(PROMPTS[3] + "zyx")["input_ids"]
    with roster.trace(mixture) as routes, torch.inference_mode():
        mixture(input_ids=ids)
    assert (len(told["tokens"]), told["experts"]) == (ids.shape[1], list(mixture.roster.experts))
    torch.testing.assert_close(torch.tensor(told["weights"]), routes.gates(), atol=1e-4, rtol=0)
    name = mixture.roster.experts[0]
    named = http.post("/v1/trace", json={"model": name, "prompt": PROMPTS[3]}).json()
    assert all(row == [1.0] + [0.0] * (len(row) - 1) for row in named["weights"])


def test_metrics_and_the_page(http, client):
    chat(client, "base", PROMPTS[0], max_tokens=3)
    text = http.get("/metrics").text
    for line in ("roster_running 0.0", 'roster_answers_total{finish="', "roster_first_token_seconds_count"):
        assert line in text
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert 'id="prompt"' in page.text


def test_what_cannot_be_served(mixture, monkeypatch):
    with pytest.raises(RosterError, match="mixtures of adapters"):
        ServedMixture(torch.nn.Linear(1, 1))
    monkeypatch.setattr(mixture.roster, "experts", ("auto", *mixture.roster.experts[1:]))
    with pytest.raises(RosterError, match="'auto'"):
        ServedMixture(mixture)


def test_the_command_says_what_it_would_serve(mixture, tmp_path, monkeypatch):
    mixture.save_pretrained(tmp_path / "m")
    done = CliRunner().invoke(app, ["serve", str(tmp_path / "m"), "--check"])
    assert done.exit_code == 0, done.output
    assert f"models: auto, base, {mixture.roster.experts[0]}" in done.output
    begun = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self: begun.append(self.config.port))
    serve(make(mixture), Listen(port=0), None, 4096)
    assert begun == [0]


def make(mixture):
    from roster.serve.serving import make_server

    return make_server(mixture)
