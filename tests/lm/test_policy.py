"""A tuned policy: decides, keeps to exclusions, survives the disk, and says what is wrong with a damaged folder."""

import json

import numpy as np
import pytest

from lm import tiny
from roster.errors import RosterError
from roster.lm.decide import Replan, Weights
from roster.lm.estimate import KNN
from roster.lm.offline import OfflinePolicy, load_policy
from roster.lm.policy import Policy
from roster.lm.prices import Price
from roster.lm.routing import Routing
from roster.lm.tune import tune
from roster.recipes import RECIPES

MADE = tiny.records()
PROMPT = MADE.prompts[0]


@pytest.fixture(scope="module")
def fitted():
    return KNN(neighbours=20).fit(MADE.split("train"))


def test_decides_as_its_parts_do(fitted):
    policy = OfflinePolicy("animals", fitted, Weights())
    assert isinstance(policy, Policy)
    found = policy.decide(PROMPT)
    estimates = fitted.estimate([PROMPT])
    at = int(estimates.quality_NM[0].argmax())
    assert (found.model, found.quality) == (MADE.models[at], estimates.quality_NM[0, at])
    assert found.quality_by_model.keys() == set(MADE.models)
    assert found.cost == pytest.approx(estimates.cost_NM[0, at])
    assert found.escalate_below is None
    other = policy.decide(PROMPT, exclude={found.model})
    assert other.model != found.model
    with pytest.raises(RosterError, match="no model left"):
        policy.decide(PROMPT, exclude=set(MADE.models))


def test_load_and_limits_change_the_estimates(fitted):
    prices = {model: Price(1.0, 1e6) for model in MADE.models}
    policy = OfflinePolicy("animals", fitted, Weights(), prices)
    calm, busy = policy.decide(PROMPT), policy.decide(PROMPT, load=dict.fromkeys(MADE.models, 3.0))
    assert busy.delay == pytest.approx(4 * calm.delay)
    assert policy.decide(PROMPT, max_tokens=1).cost < calm.cost
    with pytest.raises(RosterError, match="no model 'cat-persn'"):
        policy.decide(PROMPT, load={"cat-persn": 1.0})
    with pytest.raises(RosterError, match="has no price"):
        OfflinePolicy("animals", fitted, Weights(), {"cat-person": Price(1.0, 1.0)})


def test_a_cascade_tells_its_threshold(fitted):
    policy = OfflinePolicy("animals", fitted, Replan(cost=0.001))
    first = policy.decide(PROMPT)
    assert 0 <= first.escalate_below <= 1
    last = policy.decide(PROMPT, exclude=set(MADE.models) - {first.model})
    assert last.escalate_below is None


def test_offline_policies_do_not_learn(fitted):
    policy = OfflinePolicy("animals", fitted, Weights())
    before = policy.decide(PROMPT)
    policy.feedback(PROMPT, before, 0.0)
    assert policy.decide(PROMPT) == before
    assert policy.state() == b""
    policy.restore(b"")
    with pytest.raises(RosterError, match="no state"):
        policy.restore(b"something")


def test_the_disk_changes_nothing(fitted, tmp_path):
    policy = OfflinePolicy("animals", fitted, Weights(0.01), {m: Price(1.0, 2.0) for m in MADE.models}, {"of": "tests"})
    policy.save(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    assert (again.name, again.models, again.about, again.prices) == (
        policy.name,
        policy.models,
        policy.about,
        policy.prices,
    )
    for prompt in MADE.prompts[:20]:
        assert again.decide(prompt) == policy.decide(prompt)


def test_damaged_folders(fitted, tmp_path):
    with pytest.raises(RosterError, match=r"is not a policy's folder: it has no roster\.json"):
        load_policy(tmp_path)
    folder = OfflinePolicy("animals", fitted, Weights()).save(tmp_path / "policy")
    content = json.loads((folder / "roster.json").read_text())
    for key, value, message in (
        ("format", 9, "has format 9; this roster reads format 1"),
        ("kind", "lm-records", "kind: Input should be 'lm-policy'"),
        ("rule", {"class": "Weihgts", "options": {}, "facts": {}}, "did you mean 'Weights'"),
        ("rule", {"class": "Weights", "options": {"price": {"value": 1}}, "facts": {}}, "no option 'price'"),
        ("estimator", {}, "damaged"),
        ("surprise", 1, "surprise: Extra inputs"),
    ):
        (folder / "roster.json").write_text(json.dumps({**content, key: value}))
        with pytest.raises(RosterError, match=message):
            load_policy(folder)
    (folder / "roster.json").write_text(json.dumps(content))
    (folder / "arrays.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(RosterError, match="damaged"):
        load_policy(folder)


def test_tuning_keeps_to_its_target_on_validation():
    routing = Routing(KNN(neighbours=20), Weights())
    budget = float(MADE.cost_NM[:, :2].mean())
    tuned = tune(routing, MADE, budget=budget)
    assert tuned.validation.cost.value <= budget
    assert tuned.test.quality.value > MADE.split("test").score_NM[:, 0].mean()
    assert tuned.kept == (tuned.test.cost.value <= budget)
    floor = tune(routing, MADE, floor=0.7)
    assert floor.validation.quality.value >= 0.7
    test, mix = MADE.split("test"), floor.routing.rule
    estimates = floor.routing.estimator.estimate(test.prompts)
    expected = 0.0
    for rule, share in ((mix.first, 1 - mix.share), (mix.second, mix.share)):
        expected += share * test.score_NM[np.arange(len(test)), rule.choose(estimates)].mean()
    assert floor.test.quality.value == pytest.approx(expected)


def test_targets_out_of_reach():
    routing = Routing(KNN(), Weights())
    with pytest.raises(RosterError, match="either a budget or a quality floor"):
        tune(routing, MADE)
    with pytest.raises(RosterError, match="no setting costs at most"):
        tune(routing, MADE, budget=1e-9)
    with pytest.raises(RosterError, match="no setting reaches quality 1"):
        tune(routing, MADE, floor=1.0)


@pytest.mark.parametrize("slug", [slug for slug, recipe in RECIPES.items() if recipe.kind == "lm"])
def test_every_recipe_can_be_saved(slug, tmp_path):
    recipe = RECIPES[slug]
    made = tiny.with_answers() if {"answers", "texts"} & set(recipe.needs) else MADE
    routing = recipe({"answers": "exact"} if slug == "smoothie" else {}).fit(made.split("train"))
    if routing.unserved is not None:
        with pytest.raises(RosterError, match=r"must be told|check their own answers"):
            OfflinePolicy.of(routing, slug)
        return
    policy = OfflinePolicy.of(routing, slug)
    again = load_policy(policy.save(tmp_path / slug))
    assert again.decide(PROMPT) == policy.decide(PROMPT)
    if policy.judges:
        assert again.confidence(PROMPT, "'7'") == policy.confidence(PROMPT, "'7'")
    else:
        with pytest.raises(RosterError, match="judges no answers"):
            again.confidence(PROMPT, "'7'")
