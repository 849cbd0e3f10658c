"""Thresholds in a request's model, experiments, shadow traffic, their comparison, and answers that are given again."""

import asyncio

import numpy as np
import openai
import pytest
from scipy import stats

from gateway.servers import LARGE_COST, SMALL_COST, WORDS, on_loop, settings
from gateway.test_failures import eventually
from roster.errors import RosterError
from roster.gateway.calls import Call, Context
from roster.gateway.compare import _difference, compare
from roster.gateway.config import Experiment
from roster.gateway.config_file import Config
from roster.gateway.store import Entry, Store
from roster.gateway.wishes import at_least, draw, understand
from roster.lm.policy import Decision

ASK = [{"role": "user", "content": "count to three"}]
ARMS = {
    "policies": {
        "cheap": {"kind": "fixed", "models": ["small"]},
        "dear": {"kind": "fixed", "models": ["large"]},
        "steps": {"kind": "cascade", "steps": ["small", "large"], "escalate_below": 0.8},
    },
    "experiments": {"trial": {"arms": {"cheap": 3.0, "dear": 1.0}}},
}


def ask(client, model, **more):
    return client.chat.completions.create(model=model, messages=ASK, **more)


@pytest.mark.parametrize(("threshold", "model"), [("0.9", "small"), ("0.96", "large"), ("0", "small")])
def test_a_request_sets_a_cascades_threshold(start, threshold, model):
    client, _ = start(**ARMS, auto="steps")
    for name in ("auto", "steps"):
        assert ask(client, f"{name}:{threshold}").model == model  # the fake is sure by 0.95


def test_a_policy_without_qualities_has_no_threshold(start):
    client, _ = start(**ARMS)
    with pytest.raises(openai.BadRequestError, match="estimates no quality"):
        ask(client, "cheap:0.7")


@pytest.mark.parametrize("name", ["steps:1.1", "steps:nan", "steps:", "steps:x", "nobody:0.5", "small:0.5"])
def test_what_is_no_threshold_is_no_model(start, name):
    client, _ = start(**ARMS)
    with pytest.raises(openai.NotFoundError):
        ask(client, name)


def test_the_cheapest_model_that_is_good_enough():
    config = Config.model_validate(settings("http://127.0.0.1:1"))
    decision = Decision("large", "", quality=0.9, quality_by_model={"small": 0.6, "large": 0.9}, propensity=0.5)

    def chosen(threshold, exclude=frozenset()):
        return at_least(decision, threshold, None, exclude, config.models, "prompt")

    assert [chosen(at).model for at in (0.5, 0.6, 0.61, 0.95)] == ["small", "small", "large", "large"]
    assert "best" in chosen(0.95).reason
    assert chosen(0.5, {"small"}).model == "large"
    assert (chosen(0.5).quality, chosen(0.5).propensity) == (0.6, 1.0)


def test_a_model_whose_name_looks_like_a_threshold_comes_first():
    config = settings("http://127.0.0.1:1", policies={"m": {"kind": "cheapest"}})
    config["models"]["m:0.5"] = config["models"]["small"]
    config = Config.model_validate(config)
    assert understand("m:0.5", config, "a").policy is None
    assert understand("m:0.6", config, "a").threshold == 0.6


def test_arms_are_drawn_by_weight_and_a_key_keeps_its_own():
    arms = {"a": 3.0, "b": 1.0}
    drawn = [draw("x", Experiment(arms=arms), "key") for _ in range(4000)]
    assert stats.binomtest(drawn.count("a"), 4000, 0.75).pvalue > 1e-6
    sticky = Experiment(arms=arms, by="key")
    by_key = [draw("x", sticky, f"key {n}") for n in range(4000)]
    assert by_key == [draw("x", sticky, f"key {n}") for n in range(4000)]
    assert stats.binomtest(by_key.count("a"), 4000, 0.75).pvalue > 1e-6


def test_an_experiment_is_recorded(start):
    client, gateway = start(**ARMS, auto="trial")
    calls = [ask(client, "trial" if n % 2 else "auto") for n in range(24)]
    assert {call.model for call in calls} == {"small", "large"}
    for call in calls:
        kept = on_loop(gateway.store.call(call.id))
        assert kept.context.experiment == "trial"
        assert (kept.policy, call.model) in {("cheap", "small"), ("dear", "large")}
    cheap, dear = on_loop(compare(gateway.store, gateway.runtime.config, "trial"))
    assert cheap.calls + dear.calls == 24
    assert cheap.means["cost"] == pytest.approx(SMALL_COST)
    assert dear.differences["cost"][0] == pytest.approx(LARGE_COST - SMALL_COST)
    assert "trial" in [each.id for each in client.models.list()]


def test_shadows_are_asked_unseen_and_paid_for_apart(start, upstream):
    client, gateway = start(**ARMS, shadows={"rehearsal": {"of": "cheap", "policy": "dear", "share": 1.0}})
    assert ask(client, "cheap").model == "small"
    chunks = list(ask(client, "cheap", stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "".join(WORDS)
    ask(client, "dear")  # which nothing follows
    assert eventually(lambda: [each["model"] for each in upstream.seen].count("secret-large") == 3)
    assert eventually(lambda: on_loop(gateway.store.used("shadow rehearsal", "total")) == round(2 * LARGE_COST * 1e9))
    cheap, dear = on_loop(compare(gateway.store, gateway.runtime.config, "rehearsal"))
    assert (cheap.calls, dear.calls) == (2, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"experiments": {"trial": {"arms": {"cheap": 1.0, "nobody": 1.0}}}},
        {"experiments": {"cheap": {"arms": {"cheap": 1.0, "dear": 1.0}}}},
        {"experiments": {"trial": {"arms": {"cheap": 1.0}}}},
        {"shadows": {"x": {"of": "nobody", "policy": "dear"}}},
    ],
)
def test_experiments_are_checked(changes):
    with pytest.raises(ValueError, match=r"nobody|taken|at least 2"):
        Config.model_validate(settings("http://127.0.0.1:1") | ARMS | changes)


def test_the_comparison_is_welchs(tmp_path):
    rng = np.random.default_rng(0)
    costs = {"cheap": rng.integers(1, 1000, 40), "dear": rng.integers(500, 3000, 15)}
    store = Store("sqlite:///store.db", tmp_path)
    config = Config.model_validate(settings("http://127.0.0.1:1") | ARMS)

    async def use():
        for policy, values in costs.items():
            for n, cost in enumerate(values):
                about = Context(None, 0.5, "trial")
                call = Call(f"{policy}{n}", "a", policy, "m", Decision("m", ""), int(cost), 1, 1, context=about)
                await store.settle([Entry((), 0, call)])
        return await compare(store, config, "trial")

    _, dear = asyncio.run(use())
    expected = stats.ttest_ind(costs["dear"] / 1e9, costs["cheap"] / 1e9, equal_var=False).confidence_interval(0.95)
    assert dear.differences["cost"][1:] == pytest.approx((expected.low, expected.high))
    assert dear.differences["seconds"] == (0.0, 0.0, 0.0)
    assert dear.differences["score"] is None
    with pytest.raises(RosterError, match="did you mean 'trial'"):
        asyncio.run(compare(store, config, "tria"))
    store.close()


CACHED = {"keys": {"alice": {"key": "alice-secret-0123456789", "cache": True}, "bob": {"key": "bob-secret-9876543210"}}}


def test_the_same_request_is_answered_again_for_nothing(start, upstream):
    client, gateway = start(**CACHED)
    first = ask(client, "small", temperature=0.5)
    again = ask(client, "small", temperature=0.5)
    assert len(upstream.seen) == 1
    assert again.choices == first.choices
    assert again.id != first.id
    assert (again.roster["cost"], first.roster["cost"]) == (0.0, pytest.approx(SMALL_COST))
    assert on_loop(gateway.store.call(again.id)).outcome == "cached"
    for other in ({"temperature": 0.6}, {}, {"temperature": 0.5, "stream": True}):
        ask(client, "small", **other)
    assert len(upstream.seen) == 4, "what differs in anything is asked"


def test_answers_are_not_shared_between_keys_nor_kept_unasked(start, upstream):
    client, _ = start(**CACHED)
    bob = client.with_options(api_key="bob-secret-9876543210")
    for _ in range(2):
        ask(bob, "small")
    ask(client, "small")
    assert len(upstream.seen) == 3


def test_failures_and_large_answers_are_not_kept(start, upstream):
    client, _ = start(**CACHED, cache={"bytes": 1500})
    for _ in range(2):
        ask(client, "small")
    assert len(upstream.seen) == 2, "larger than all together may be"
    upstream.does["secret-small"] = "garbage"
    with pytest.raises(openai.InternalServerError):
        ask(client, "small", max_tokens=7)
    del upstream.does["secret-small"]
    assert ask(client, "small", max_tokens=7).model == "small"


def test_differences_are_welchs_and_same_values_are_no_trouble():
    rng = np.random.default_rng(0)
    for ours, theirs in ((rng.random(12), 0.3 + rng.random(9)), (rng.random(30), 5 * rng.random(7))):
        found = _difference(ours, theirs)
        interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
        assert found == pytest.approx((ours.mean() - theirs.mean(), interval.low, interval.high))
    # A mean of equal costs differs from them in its last bit, so that their deviation is not quite zero.
    same = np.full(11, 4e-05)
    assert _difference(same, np.full(13, 4e-3)) == pytest.approx((4e-05 - 4e-3,) * 3)
    middle, low, high = _difference(same, rng.random(13))
    assert low < middle < high
