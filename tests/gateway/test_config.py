"""The config file: one clear error for whatever is wrong with it, before any port is opened; reloads while serving."""

import asyncio
import logging
import os
import signal

import openai
import pydantic
import pytest
import yaml
from typer.testing import CliRunner

from gateway.servers import LOOP, gateway_of, settings
from gateway.test_failures import eventually
from gateway.test_feedback import free_port, gateway_process
from roster.cli import app
from roster.errors import RosterError
from roster.gateway.config import Key, Limits, Model, Upstream
from roster.gateway.config_file import Access, Config, Keeping, Routing
from roster.gateway.reading import parse_config, read_config
from roster.gateway.serving import mark, watch

ASK = [{"role": "user", "content": "count to three"}]
URL = "http://127.0.0.1:1"


def changed(path, value):
    """The settings with one thing set (or, with `...`, taken out), at a dotted path."""
    config = settings(URL)
    *way, last = path.split(".")
    place = config
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return config


BAD = {
    "unknown key": ("modles", {}, "modles: unknown key: did you mean 'models'"),
    "unknown key deep down": ("upstreams.up.timeouts.conect", 1.0, "conect: unknown key: did you mean 'connect'?"),
    "unknown key of a group": ("polices", {}, "polices: unknown key: did you mean 'policies'"),
    "unknown key deep in a group": ("keys.alice.bugdet", 1.0, "keys.alice.bugdet: unknown key: did you mean 'budget'?"),
    "a group's own name": ("access", {"keys": {}}, "access: unknown key: what belongs to it stands at the top"),
    "team that is none": ("keys.alice.team", "x", "keys.alice.team: there is no team 'x'"),
    "arms of nobody": ("experiments", {"e": {"arms": {"auto": 1.0, "x": 1.0}}}, "experiments.e.arms: there is no"),
    "price missing": ("models.small.price", ..., "models.small.price: is missing"),
    "half a price": ("models.small.price", {"input": 1.0}, "models.small.price.output: is missing"),
    "price below zero": ("models.small.price.input", -1.0, "models.small.price.input"),
    "price that is none": ("models.small.price.input", float("nan"), "models.small.price.input"),
    "unknown upstream": ("models.small.upstream", "upp", "there is no upstream 'upp': did you mean 'up'?"),
    "no url": ("upstreams.up.url", "127.0.0.1:80", "upstreams.up.url"),
    "password in the url": ("upstreams.up.url", "http://me:secret@x/v1", "give the key as api_key"),
    "unknown policy": ("policies.auto", {"kind": "cheapes"}, "unknown policy 'cheapes': did you mean 'cheapest'?"),
    "no kind": ("policies.auto", {}, "policies.auto.kind: unknown policy"),
    "unknown option": ("policies.auto", {"kind": "fixed", "model": ["small"]}, "policies.auto.model"),
    "unknown model": ("policies.auto", {"kind": "fixed", "models": ["smal"]}, "model 'smal': did you mean 'small'?"),
    "no such folder": ("policies.auto", {"kind": "folder", "path": "nowhere"}, "policies.auto: "),
    "weight zero": ("policies.auto", {"kind": "mix", "weights": {"small": 0.0}}, "policies.auto.weights.small"),
    "auto is nobody": ("auto", "frugal", "auto: there is no policy 'frugal'"),
    "one name twice": ("policies.small", {"kind": "cheapest"}, "'small' is the name of a model and of a policy"),
    "short key": ("keys.alice.key", "short", "shorter than 16 characters"),
    "no secret": ("keys.alice", {}, "give `key` or `sha256`"),
    "text for a number": ("limits", {"retries": "2"}, "limits.retries"),
    "store": ("store", "mysql://x", "store: must be sqlite"),
    "store that is a folder": ("store", "sqlite:///.", "cannot be opened as a SQLite database"),
    "open to all": ("open", None, "can be reached from elsewhere"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_configs_end_in_one_line(case, tmp_path):
    path, value, words = BAD[case]
    config = changed(path, value) if path != "open" else settings(URL, listen={"host": "0.0.0.0"}, keys={})
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(app, ["gateway", str(file), "--check", "--offline"])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert "secret" not in result.stderr


def test_a_good_config_is_said_to_be_good(upstream, tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(settings(upstream.url)))
    result = CliRunner().invoke(app, ["gateway", str(file), "--check"])
    assert (result.exit_code, result.stdout) == (0, f"{file}: good\n"), result.output


def test_check_says_which_upstream_cannot_be_reached(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(settings(URL)))
    result = CliRunner().invoke(app, ["gateway", str(file), "--check"])
    assert result.exit_code == 2
    assert "nothing answers at the upstream up" in result.stderr
    assert URL not in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not YAML"),
        ("- a\n- b", "must be a mapping"),
        ("", "must be a mapping"),
        ("models: {}\nmodels: {}", "'models' is given twice"),
        ("a: ${NOT_SET}", "a: the environment variable 'NOT_SET' is not set"),
        ("a: !!python/object:os.system {}", "not YAML"),
        ("a: &a [*a]", "nested deeper"),
    ],
)
def test_bad_files(text, words):
    with pytest.raises(RosterError, match=words.replace("[", r"\[").replace("$", r"\$")):
        parse_config(text, "file", {})


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RosterError, match=path.name):
            read_config(path)
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(RosterError, match="not UTF-8"):
        read_config(tmp_path / "latin")


def test_secrets_come_from_the_environment_and_stay_hidden():
    text = yaml.safe_dump(changed("keys.alice.key", "${ALICE}-$$-end"))
    config = parse_config(text, "file", {"ALICE": "0123456789abcdef"})
    assert config.access.keys["alice"].key.get_secret_value() == "0123456789abcdef-$-end"
    assert "0123456789abcdef" not in repr(config)
    with pytest.raises(RosterError) as caught:
        parse_config(text, "file", {"ALICE": "t1ny"})
    assert "t1ny" not in str(caught.value)


@pytest.fixture
def watched(upstream, tmp_path):
    """(config file, client, gateway) with the watcher at work."""
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(settings(upstream.url)))
    with gateway_of(settings(upstream.url), tmp_path) as (url, gateway):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="alice-secret-0123456789", max_retries=0)
        watching = asyncio.run_coroutine_threadsafe(watch(gateway, file, mark(file), every=0.02, signals=False), LOOP)
        yield file, client, gateway
        watching.cancel()
        client.close()


def reloads(gateway, result):
    return gateway.metrics.registry.get_sample_value("roster_config_reloads_total", {"result": result}) or 0.0


def write(file, config, gateway, result):
    before = reloads(gateway, result)
    file.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    assert eventually(lambda: reloads(gateway, result) == before + 1)


def test_a_changed_config_is_taken(watched, upstream):
    file, client, gateway = watched
    policies = {"auto": {"kind": "fixed", "models": ["large"]}}
    write(file, settings(upstream.url, policies=policies), gateway, "taken")
    assert client.chat.completions.create(model="auto", messages=ASK).model == "large"


@pytest.mark.parametrize("kind", ["not YAML", "unknown policy", "store changed"])
def test_a_bad_config_changes_nothing(watched, upstream, caplog, kind):
    file, client, gateway = watched
    bad = {
        "not YAML": "a: [",
        "unknown policy": settings(upstream.url, policies={"auto": {"kind": "nonsense"}}),
        "store changed": settings(upstream.url, store="sqlite:///other.db"),
    }[kind]
    write(file, bad, gateway, "refused")
    assert client.chat.completions.create(model="auto", messages=ASK).model == "small"
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "the old one stays" in errors[0].getMessage()
    write(file, settings(upstream.url), gateway, "taken")


def test_what_was_learned_outlives_a_reload(watched, upstream):
    file, client, gateway = watched
    learning = settings(upstream.url, policies={"auto": {"kind": "thompson", "features": 4}})
    write(file, learning, gateway, "taken")
    answer = client.chat.completions.create(model="auto", messages=ASK)
    client.post("/feedback", body={"id": answer.id, "score": 1.0}, cast_to=object)
    state = gateway.runtime.learners["auto"].policy.state()
    learning["limits"] = {"retries": 1}
    write(file, learning, gateway, "taken")
    assert gateway.runtime.learners["auto"].policy.state() == state
    learning["policies"]["auto"]["features"] = 8
    write(file, learning, gateway, "refused")


def test_sighup_reloads(upstream, tmp_path):
    listen = {"host": "127.0.0.1", "port": free_port()}
    file = tmp_path / "gateway.yaml"
    config = settings(upstream.url, listen=listen)
    file.write_text(yaml.safe_dump(config))
    with gateway_process(file, f"http://127.0.0.1:{listen['port']}") as process:
        log = file.with_suffix(".log")
        os.utime(file)  # so that the signal is not the first news
        os.kill(process.pid, signal.SIGHUP)
        assert eventually(lambda: "the config was reloaded" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (0, -signal.SIGTERM)


def test_the_port_stays_closed_when_the_config_is_bad(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("uvicorn.Server.serve", lambda server: opened.append(server))
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(settings(URL, policies={"auto": {"kind": "nonsense"}})))
    assert CliRunner().invoke(app, ["gateway", str(file)]).exit_code == 2
    assert not opened
    assert not (tmp_path / "gateway.db").exists()


def parts(model):
    """The config's model and all that it is made of."""
    found = {model}
    for field in model.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            each = waiting.pop()
            waiting += getattr(each, "__args__", ())
            if isinstance(each, type) and issubclass(each, pydantic.BaseModel) and each not in found:
                found |= parts(each)
    return found


def test_groups_are_the_codes_and_not_the_files():
    """The YAML of version 0.1 is read as it was, into groups of at most twelve fields."""
    text = yaml.safe_dump(settings(URL) | {"store": "sqlite:///x.db", "log_prompts": True, "auto": "auto"})
    config = parse_config(text, "x", {})
    assert list(config.routing.policies) == ["auto"]
    assert list(config.access.keys) == ["alice", "bob"]
    assert (config.keeping.store, config.keeping.log_prompts, config.routing.auto) == ("sqlite:///x.db", True, "auto")
    everything = parts(Config)
    assert {Access, Routing, Keeping, Key, Model, Upstream, Limits} <= everything
    assert {each.__name__: len(each.model_fields) for each in everything if len(each.model_fields) > 12} == {}
