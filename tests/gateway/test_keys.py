"""Keys that are issued, what they may do, and what was spent: the command line, the admin API and its page."""

import hashlib
import json
import sqlite3
import time

import openai
import pytest
import yaml
from typer.testing import CliRunner

from gateway.servers import LARGE_COST, SMALL_COST, on_loop, settings
from gateway.test_failures import eventually
from roster.cli import app
from roster.gateway.config import Rules
from roster.gateway.keys import Account, Caller
from roster.gateway.rates import Rates

ASK = [{"role": "user", "content": "count to three"}]
ADMIN = "admin-secret-0123456789"
TEAMS = {"research": {"budget": 14 * SMALL_COST, "period": "total"}}


@pytest.fixture
def admin(start, http):
    """(client, gateway, `ask(method, path, **more)` as the admin)."""
    client, gateway = start(admin={"key": ADMIN}, teams=TEAMS)
    root = str(client.base_url).removesuffix("/v1/")

    def ask(method, path, key=ADMIN, **more):
        return http.request(method, root + path, headers={"authorization": f"Bearer {key}"}, **more)

    return client, gateway, ask


def issue(ask, name, **rules):
    told = ask("POST", "/admin/keys", json={"name": name} | rules)
    assert told.status_code == 201, told.text
    return told.json()["key"]


def answer(client, key, model="small", **more):
    return client.with_options(api_key=key).chat.completions.create(model=model, messages=ASK, **more)


def test_a_key_is_issued_shown_once_and_revoked(admin, tmp_path):
    client, gateway, ask = admin
    secret = issue(ask, "carol", models=["small", "auto"])
    assert answer(client, secret).model == "small"
    for listing in (ask("GET", "/admin/keys").text, repr(gateway.keyring)):
        assert secret not in listing
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    stored = sqlite3.connect(tmp_path / "gateway.db").execute("SELECT sha256 FROM virtual_keys").fetchall()
    assert stored == [(hashlib.sha256(secret.encode()).hexdigest(),)]
    assert ask("POST", "/admin/keys", json={"name": "carol"}).status_code == 400, "names are given out once"
    assert ask("POST", "/admin/keys", json={"name": "alice"}).status_code == 400, "also the config's"
    assert ask("DELETE", "/admin/keys/carol").status_code == 200
    with pytest.raises(openai.AuthenticationError):
        answer(client, secret)
    assert ask("DELETE", "/admin/keys/carol").status_code == 404
    assert ask("POST", "/admin/keys", json={"name": "carol"}).status_code == 400, "nor after it was revoked"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"team": "reserch"}, "did you mean 'research'"),
        ({"models": ["smal"]}, "did you mean 'small'"),
        ({"rpm": 0}, "rpm"),
        ({"budgett": 1.0}, "budgett"),
    ],
)
def test_rules_are_checked(admin, wrong, words):
    told = admin[2]("POST", "/admin/keys", json={"name": "carol"} | wrong)
    assert told.status_code == 400
    assert words in told.text


def test_a_key_is_for_its_models_only(admin):
    client, _, ask = admin
    secret = issue(ask, "carol", models=["small"])
    assert [each.id for each in client.with_options(api_key=secret).models.list()] == ["small"]
    for model in ("large", "auto"):
        with pytest.raises(openai.PermissionDeniedError) as caught:
            answer(client, secret, model)
        assert caught.value.code == "model_not_allowed"


def test_a_key_expires(admin):
    client, _, ask = admin
    secret = issue(ask, "carol", days=1.0 / 86_400)
    assert answer(client, secret).model == "small"
    time.sleep(1.05)
    with pytest.raises(openai.AuthenticationError):
        answer(client, secret)


def test_a_team_shares_a_budget_and_a_key_has_its_own(admin, upstream):
    client, gateway, ask = admin
    one = issue(ask, "one", team="research", budget=10 * SMALL_COST, period="total")
    two = issue(ask, "two", team="research")

    def until_refused(secret):
        for count in range(20):
            try:
                answer(client, secret, max_tokens=3)
            except openai.RateLimitError as error:
                codes.append(error.code)
                return count
        return None

    # A call reserves some seven times what it costs here.
    codes = []
    counts = until_refused(one), until_refused(two), until_refused(one)
    assert codes == ["insufficient_quota"] * 3
    assert 1 <= counts[0] <= 10, "its own budget is the smaller one"
    assert 1 <= counts[1] <= 14 - counts[0], "the team's"
    assert counts[2] == 0
    assert sum(counts) == len(upstream.seen)
    spent = [on_loop(gateway.store.used(name, "total")) for name in ("one", "team research")]
    assert spent == [round(counts[0] * SMALL_COST * 1e9), round(sum(counts) * SMALL_COST * 1e9)]


def test_an_admin_means_keys(start, http):
    client, _ = start(keys={}, admin={"key": ADMIN})
    assert http.get(f"{client.base_url}models").status_code == 401


def test_keys_of_the_command_line(start, upstream, tmp_path):
    client, gateway = start(keys={})
    answer(client, "anything")
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(settings(upstream.url, keys={})))

    def run(*words):
        result = CliRunner().invoke(app, ["gateway", *words])
        assert result.exit_code == 0, result.output
        return result.stdout

    secret = run("key", "create", str(file), "carol", "--limit", "budget=5", "--limit", "rpm=2", "--model", "small")
    secret = secret.strip()
    on_loop(gateway.refresh_keys())
    with pytest.raises(openai.AuthenticationError):
        answer(client, "anything")
    for _ in range(2):
        answer(client, secret)
    with pytest.raises(openai.RateLimitError) as caught:
        answer(client, secret)
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 31
    (told,) = map(json.loads, run("key", "list", str(file)).splitlines())
    assert (told["name"], told["budget"], told["rpm"], told["models"]) == ("carol", 5.0, 2, ["small"])
    by_key = {row["what"]: row for row in map(json.loads, run("spend", str(file), "--json").splitlines())}
    assert by_key["carol"]["calls"] == 2
    assert by_key["carol"]["cost"] == pytest.approx(2 * SMALL_COST)
    assert "carol" in run("spend", str(file))
    run("key", "revoke", str(file), "carol")
    on_loop(gateway.refresh_keys())
    for key in (secret, "anything"):
        with pytest.raises(openai.AuthenticationError):
            answer(client, key)
    refused = CliRunner().invoke(app, ["gateway", "spend", str(file), "--by", "modle"])
    assert (refused.exit_code, "did you mean 'model'" in refused.stderr) == (2, True)
    refused = CliRunner().invoke(app, ["gateway", "key", "create", str(file), "x", "--limit", "rpm"])
    assert (refused.exit_code, "name=value" in refused.stderr) == (2, True)


def test_rates():
    now = 0.0
    rates = Rates(lambda: now)
    caller = Caller("a", (Account("a"),), Rules(rpm=2, tpm=600))

    def waits():
        try:
            rates.enter(caller)
        except Exception as error:
            return error.retry_after
        return 0.0

    assert [waits() for _ in range(3)] == [0.0, 0.0, 30.0]
    now = 15.0
    assert waits() == 15.0
    now = 30.0
    assert waits() == 0.0
    rates.spent(caller, 900)
    now = 90.0
    assert waits() == 0.0, "600 came back in the minute, the debt was 300"
    rates.spent(caller, 700)
    now = 120.0
    assert waits() == pytest.approx(10.1), "(100 + 1) tokens, ten a second"


def test_spending_is_told_by_everything(admin):
    client, _, ask = admin
    for model in ("small", "small", "large", "auto"):
        call = answer(client, client.api_key, model)
    client.post("/feedback", body={"id": call.id, "score": 0.5}, cast_to=object)
    told = {by: ask("GET", f"/admin/spend?by={by}").json()["data"] for by in ("key", "team", "model", "policy", "day")}
    assert {row["what"]: row["calls"] for row in told["model"]} == {"large": 1, "small": 3}
    assert {row["what"]: row["score"] for row in told["policy"]} == {"auto": 0.5, None: None}
    for rows in told.values():
        assert sum(row["cost"] for row in rows) == pytest.approx(3 * SMALL_COST + LARGE_COST)
    assert told["day"][0]["what"] == time.strftime("%Y-%m-%d", time.gmtime())
    assert ask("GET", "/admin/spend?by=name; DROP TABLE calls").status_code == 400


def test_the_page_is_behind_the_admin_key(admin, http):
    client, _, ask = admin
    answer(client, client.api_key)
    root = str(client.base_url).removesuffix("/v1/")
    nobody = http.get(f"{root}/admin")
    assert (nobody.status_code, nobody.headers["www-authenticate"][:5]) == (401, "Basic")
    for wrong in ("x", client.api_key, "admin"):
        assert http.get(f"{root}/admin", auth=("me", wrong)).status_code == 401
        assert ask("GET", "/admin/keys", key=wrong).status_code == 401
    page = http.get(f"{root}/admin?days=7", auth=("me", ADMIN))
    assert page.status_code == 200
    assert "small" in page.text
    assert "<script" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    forged = http.post(f"{root}/admin/keys", auth=("me", ADMIN), json={"name": "mallory"})
    assert forged.status_code == 401, "what a browser sends by itself changes nothing"


def test_without_an_admin_key_there_is_no_admin(start, http):
    client, _ = start()
    root = str(client.base_url).removesuffix("/v1/")
    for path in ("/admin", "/admin/keys", "/admin/spend"):
        assert http.get(root + path, headers={"authorization": "Bearer x"}).status_code == 404


def test_issued_keys_reach_another_gateway_on_the_store(admin):
    client, gateway, ask = admin
    secret = issue(ask, "carol")
    gateway.keyring = type(gateway.keyring)(gateway.runtime.config)  # as one that has not heard of it
    with pytest.raises(openai.AuthenticationError):
        answer(client, secret)
    on_loop(gateway._catch_up())
    assert eventually(lambda: answer(client, secret).model == "small")
