"""Replicas, API keys and circuits: what one way to a model does says nothing about the others."""

import time

import openai
import pytest

from gateway.servers import Upstream, running, settings
from gateway.test_failures import eventually, leaking
from roster.gateway.breaker import Breaker
from roster.gateway.config_file import Config
from roster.gateway.ways import Ways

ASK = [{"role": "user", "content": "count to three"}]


@pytest.fixture
def sibling():
    """A second server with the same models."""
    fake = Upstream()
    with running(fake.app) as fake.url:
        yield fake


def replicas(upstream, sibling, **up):
    """Changes to the settings: `small` at both servers, `large` at the first."""
    ups = {name: settings(each.url)["upstreams"]["up"] | up for name, each in (("a", upstream), ("b", sibling))}
    models = settings("")["models"]
    models["small"]["upstream"] = ["a", "b"]
    models["large"]["upstream"] = "a"
    return {"upstreams": ups, "models": models}


def outcomes(answer):
    return [(each["model"], each["outcome"]) for each in answer.roster["attempts"]]


def test_a_broken_model_does_not_close_its_neighbour(start, upstream):
    upstream.does["secret-small"] = leaking(500)
    up = settings(upstream.url)["upstreams"]["up"] | {"breaker": {"failures": 2, "cooldown": 60.0}}
    client, _ = start(upstreams={"up": up})
    for _ in range(3):
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="small", messages=ASK)
    assert len(upstream.seen) == 2, "the circuit of the broken model is open"
    assert client.chat.completions.create(model="large", messages=ASK).model == "large"
    assert client.chat.completions.create(model="auto", messages=ASK).model == "large"


@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_call_is_tried_on_the_sibling(start, upstream, sibling, stream):
    upstream.does["secret-small"] = leaking(500)
    client, _ = start(**replicas(upstream, sibling))
    for _ in range(4):
        answer = client.chat.completions.create(model="small", messages=ASK, stream=stream)
        answer = list(answer)[-1] if stream else answer
        assert answer.roster["model"] == "small"
    assert len(sibling.seen) == 4
    assert 1 <= len(upstream.seen) <= 3, "replicas take turns, so some calls met the broken one first"


def test_the_sibling_is_asked_before_another_model(start, upstream, sibling):
    upstream.does["secret-small"] = sibling.does["secret-small"] = leaking(500)
    client, _ = start(**replicas(upstream, sibling))
    answer = client.chat.completions.create(model="auto", messages=ASK)
    assert outcomes(answer) == [("small", "status"), ("small", "status"), ("large", "answered")]
    assert (len(sibling.seen), len(upstream.seen)) == (1, 2)


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_failure_is_tried_on_exactly_so_many_others(start, upstream, retries):
    models = {f"m{n}": settings("")["models"]["small"] | {"name": f"m{n}"} for n in range(5)}
    upstream.does = dict.fromkeys(models, leaking(500))
    policies = {"auto": {"kind": "fixed", "models": list(models)}}
    client, _ = start(models=models, policies=policies, limits={"retries": retries})
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="auto", messages=ASK)
    assert [each["model"] for each in upstream.seen] == [f"m{n}" for n in range(retries + 1)]


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_siblings_are_tried_exactly_so_often(start, upstream, retries):
    upstream.does["secret-small"] = leaking(500)
    up = settings(upstream.url)["upstreams"]["up"] | {"api_keys": [f"key-{n}" for n in range(5)]}
    del up["api_key"]
    client, _ = start(upstreams={"up": up}, limits={"retries": retries})
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="small", messages=ASK)
    assert len({each["authorization"] for each in upstream.headers}) == len(upstream.seen) == retries + 1


def test_calls_go_to_the_least_busy(start, upstream, sibling):
    upstream.does["secret-small"] = "endless"
    client, gateway = start(**replicas(upstream, sibling))
    streams = []
    while gateway.runtime.ways.in_flight["small@a"] == 0:  # replicas take turns, so the second at the latest
        streams.append(client.chat.completions.create(model="small", messages=ASK, stream=True))
    assert len(streams) <= 2
    before = len(sibling.seen)
    for _ in range(6):
        ask(client)
    assert len(sibling.seen) == before + 6
    assert 'roster_in_flight{model="small"} 1.0' in gateway.scrape().decode()
    for each in streams:
        each.close()
    assert eventually(lambda: not any(gateway.runtime.ways.in_flight.values()))


def ask(client):
    return client.chat.completions.create(model="small", messages=ASK)


def test_a_refused_key_makes_way_for_another(start, upstream):
    def only_good(body, headers):
        return leaking(401) if headers["authorization"] == "Bearer bad-key" else "answers"

    upstream.does["secret-small"] = only_good
    up = settings(upstream.url)["upstreams"]["up"] | {"api_keys": ["bad-key", "good-key"]}
    up["breaker"] = {"failures": 1, "cooldown": 60.0}
    del up["api_key"]
    client, gateway = start(upstreams={"up": up})
    for _ in range(4):
        assert ask(client).model == "small"
    assert [each["authorization"] for each in upstream.headers].count("Bearer bad-key") == 1
    text = gateway.scrape().decode()
    assert 'roster_breaker_open{way="small@up#0"} 1.0' in text
    assert "bad-key" not in text


def test_health_checks_spare_requests_a_dead_replica(start, upstream, sibling):
    health = {"every": 0.3, "failures": 1, "path": "/health"}
    upstream.healthy = False
    client, gateway = start(**replicas(upstream, sibling, health=health))
    assert eventually(lambda: gateway.runtime.ways.down == {"a"})
    for _ in range(4):
        ask(client)
    assert not upstream.seen
    assert gateway.runtime.ways.resting == {"large"}
    upstream.healthy = True
    assert eventually(lambda: not gateway.runtime.ways.down)
    assert client.chat.completions.create(model="large", messages=ASK).model == "large"


def test_circuits_outlive_a_reload_that_leaves_them_alone():
    config = Config.model_validate(settings("http://127.0.0.1:1"))
    before = Ways(config)
    before.by_model["small"][0].breaker.failed()
    changed = config.model_copy(
        update={"models": config.models | {"large": config.models["large"].model_copy(update={"name": "other"})}}
    )
    after = Ways(changed, before)
    assert after.by_model["small"][0].breaker is before.by_model["small"][0].breaker
    assert after.by_model["large"][0].breaker is not before.by_model["large"][0].breaker
    assert after.in_flight is before.in_flight


def test_a_half_open_trial_that_fails_rests_a_whole_cooldown_from_its_end():
    now = 0.0
    breaker = Breaker(3, 10.0, lambda: now)
    for _ in range(3):
        breaker.failed()
    for round_ in range(2):
        now += 10.0
        breaker.begin()
        now += 4.0  # the trial takes its time
        assert breaker.wait == 6.0
        breaker.failed()
        assert breaker.wait == 10.0, round_
    now += 10.0
    breaker.begin()
    breaker.succeeded()
    for _ in range(2):
        breaker.failed()
    assert breaker.wait == 0.0, "it takes three again"
    breaker.failed()
    assert breaker.wait == 10.0


def test_a_half_open_trial_over_http(start, upstream):
    upstream.does["secret-small"] = leaking(500)
    up = settings(upstream.url)["upstreams"]["up"] | {"breaker": {"failures": 3, "cooldown": 0.4}}
    client, _ = start(upstreams={"up": up})
    statuses = []

    def attempt():
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client)
        statuses.append(caught.value.status_code)

    for _ in range(4):
        attempt()
    time.sleep(0.45)
    attempt()
    attempt()
    assert statuses == [502, 502, 502, 503, 502, 503], "one failed trial, not three, and it rests again"
