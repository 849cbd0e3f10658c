"""Logs with one model per prompt: against plain formulas, against a known truth, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from lm import tiny
from roster.errors import RosterError
from roster.lm.curve import interval, resamples
from roster.lm.decide import Weights
from roster.lm.estimate import KNN
from roster.lm.evaluate import evaluate
from roster.lm.importing import read_log
from roster.lm.offpolicy.counterfactual import counterfactual, one_each
from roster.lm.offpolicy.estimators import (
    Drawn,
    doubly_robust,
    doubly_robust_scores,
    ips,
    self_normalised,
    support,
)
from roster.lm.offpolicy.nuisance import with_recorded
from roster.lm.records import Logged
from roster.lm.report import page, tables
from roster.lm.results import ORACLE, RANDOM, SINGLE
from roster.lm.routing import Routing
from roster.lm.tune import tune

TRUE_KM = np.array([[0.9, 0.3, 0.5], [0.2, 0.8, 0.5], [0.4, 0.4, 0.6], [0.7, 0.6, 0.1]])
CHANCE_KM = np.array([[0.6, 0.25, 0.15], [0.15, 0.15, 0.7], [0.4, 0.4, 0.2], [0.2, 0.5, 0.3]])
CHOICE_K = np.array([0, 1, 2, 1])
"""Four kinds of prompts: what each model is worth, whom the log asks, whom the policy would ask."""
VALUE = TRUE_KM[np.arange(4), CHOICE_K].mean()


def drawn_log(rng, N):
    """(kind, chosen model, score) of N logged calls."""
    kind_N = rng.integers(4, size=N)
    model_N = (rng.random(N)[:, None] > CHANCE_KM[kind_N].cumsum(1)).sum(1)
    return kind_N, model_N, (rng.random(N) < TRUE_KM[kind_N, model_N]).astype(float)


def as_matrices(kind_N, model_N, score_N):
    """The same as a log with gaps: (policy, value, share), each [N, M]."""
    at_N = np.arange(len(kind_N))
    policy_NM, share_NM = np.zeros((2, len(kind_N), 3))
    value_NM = np.full((len(kind_N), 3), np.nan)
    policy_NM[at_N, CHOICE_K[kind_N]] = 1
    share_NM[at_N, model_N] = 1
    value_NM[at_N, model_N] = score_N
    return policy_NM, value_NM, share_NM


def test_estimators_are_their_plain_formulas():
    kind_N, model_N, score_N = drawn_log(np.random.default_rng(0), 60)
    policy_NM, value_NM, share_NM = as_matrices(kind_N, model_N, score_N)
    expected_KM = np.random.default_rng(1).random((4, 3))
    for most in (float("inf"), 3.0):
        weights = [min(1 / CHANCE_KM[k, m], most) * (CHOICE_K[k] == m) for k, m in zip(kind_N, model_N, strict=True)]
        plain = sum(w * s for w, s in zip(weights, score_N, strict=True)) / 60
        robust = 0.0
        for k, m, s, w in zip(kind_N, model_N, score_N, weights, strict=True):
            robust += (expected_KM[k, CHOICE_K[k]] + w * (s - expected_KM[k, m])) / 60
        drawn = Drawn(share_NM, CHANCE_KM[kind_N], most)
        assert ips(policy_NM, value_NM, drawn) == pytest.approx(plain)
        assert self_normalised(policy_NM, value_NM, drawn) == pytest.approx(plain * 60 / sum(weights))
        assert doubly_robust(policy_NM, value_NM, drawn, expected_KM[kind_N]) == pytest.approx(robust)
        found = support((policy_NM * drawn.weight_NM).sum(1), (policy_NM * drawn.supported_NM).sum(1))
        assert found.effective == pytest.approx(sum(weights) ** 2 / sum(w**2 for w in weights))
        assert found.heaviest == pytest.approx(max(weights))
        kept = [CHANCE_KM[k, CHOICE_K[k]] >= 1 / most for k in kind_N]
        assert found.overlap == pytest.approx(np.mean(kept))


def test_doubly_robust_is_right_when_either_model_is():
    """And the plain ones are not: a wrong propensity misleads IPS, a wrong expectation whoever believes it alone."""
    rng = np.random.default_rng(2)
    found = {name: [] for name in ("wrong expectation", "wrong propensity", "plain with wrong propensity")}
    for _ in range(300):
        kind_N, model_N, score_N = drawn_log(rng, 200)
        policy_NM, value_NM, share_NM = as_matrices(kind_N, model_N, score_N)
        right, wrong = Drawn(share_NM, CHANCE_KM[kind_N]), Drawn(share_NM, np.full((200, 3), 1 / 3))
        found["wrong expectation"].append(doubly_robust(policy_NM, value_NM, right, np.full((200, 3), 0.9)))
        found["wrong propensity"].append(doubly_robust(policy_NM, value_NM, wrong, TRUE_KM[kind_N]))
        found["plain with wrong propensity"].append(ips(policy_NM, value_NM, wrong))
    off = {name: (np.mean(each) - VALUE) / (np.std(each) / len(each) ** 0.5) for name, each in found.items()}
    assert abs(off["wrong expectation"]) < 3.5
    assert abs(off["wrong propensity"]) < 3.5
    assert abs(off["plain with wrong propensity"]) > 10


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Expectations are cell means of the other half of the prompts; 250 draws of 300 prompts, some of weight 7."""
    rng, covered = np.random.default_rng(3), 0
    for draw in range(250):
        kind_N, model_N, score_N = drawn_log(rng, 300)
        policy_NM, value_NM, share_NM = as_matrices(kind_N, model_N, score_N)
        expected_NM = np.empty((300, 3))
        for half in (0, 1):
            other, own = np.arange(300) % 2 != half, np.arange(300) % 2 == half
            count, total = np.full((4, 3), 1.0), np.full((4, 3), 0.5)
            np.add.at(count, (kind_N[other], model_N[other]), 1)
            np.add.at(total, (kind_N[other], model_N[other]), score_N[other])
            expected_NM[own] = (total / count)[kind_N[own]]
        scores_NM = doubly_robust_scores(value_NM, Drawn(share_NM, CHANCE_KM[kind_N]), expected_NM)
        low, high = interval(resamples(300, 200, draw) @ (policy_NM * scores_NM).sum(1))
        covered += low <= VALUE <= high
    assert 0.92 <= covered / 250 <= 0.98


# ---- logs


def routed(made, chance_of, recorded=True, seed=0):
    """What is left of complete records when one model per prompt was asked; `chance_of` gives [M] by data set."""
    rng = np.random.default_rng(seed)
    shape = made.score_NM.shape
    chance_NM = np.array([chance_of(dataset) for dataset in made.datasets])
    at_N = np.arange(len(made))
    model_N = (rng.random(len(made))[:, None] > chance_NM.cumsum(1)).sum(1)
    asked_NM = np.zeros(shape, dtype=bool)
    asked_NM[at_N, model_N] = True
    calls_NM = np.where(asked_NM, 1.0, np.nan)
    propensity_NM = np.where(asked_NM, chance_NM, np.nan) if recorded else np.full(shape, np.nan)
    hidden = {name: np.where(asked_NM, getattr(made, name), np.nan) for name in ("score_NM", "cost_NM", "delay_NM")}
    logged = Logged("last-user", calls_NM, propensity_NM, np.full(shape, np.nan))
    return dataclasses.replace(made, **hidden, logged=logged)


def by_taste(dataset):
    """A router that prefers the model which is bad at the animal: means of what it asked mislead."""
    return {"cat": [0.2, 0.5, 0.3], "dog": [0.5, 0.2, 0.3], "bird": [0.3, 0.3, 0.4]}[dataset]


MADE = tiny.records(1000)
KNN_ROUTER = {"lm-knn": lambda: Routing(KNN(neighbours=20), Weights())}


@pytest.mark.parametrize("recorded", [True, False])
def test_gaps_are_filled_with_what_is_right_on_average(recorded):
    log = routed(MADE, by_taste, recorded)
    assert one_each(log)
    assert not one_each(MADE)
    part, rest = log.split("test"), log.split("train")
    filled = counterfactual(part, rest, "test")
    truth_M, naive_M = MADE.split("test").score_NM.mean(0), np.nanmean(part.score_NM, axis=0)
    error_M = filled.score_NM.std(0) / len(part) ** 0.5
    assert (abs(filled.score_NM.mean(0) - truth_M) < 3 * error_M).all()
    assert abs(naive_M - truth_M)[:2].max() > 0.1  # what the log's own means say is far off
    np.testing.assert_allclose(filled.cost_NM.mean(0), MADE.split("test").cost_NM.mean(0), rtol=0.1)
    assert ("recorded propensities" in filled.notes[-1]) == recorded
    asked_NM = np.isfinite(part.score_NM)
    np.testing.assert_array_equal(filled.measured_NM, part.score_NM)
    assert (filled.weight_NM[~asked_NM] == 0).all()
    assert (filled.weight_NM[asked_NM] >= 1).all()
    only = filled.only(MADE.models[:2]).rows(np.arange(5))
    assert only.weight_NM.shape == only.score_NM.shape == (5, 2)


@pytest.fixture(scope="module")
def report():
    return evaluate(routed(MADE, by_taste), KNN_ROUTER, draws=60)


def test_the_report_has_its_shape_and_says_what_it_rests_on(report):
    full = evaluate(MADE, KNN_ROUTER, draws=60)
    rows, true = ({row.router: row for row in each.sections[0].rows} for each in (report, full))
    assert rows.keys() == true.keys() - {ORACLE}
    for slug in (RANDOM, SINGLE, "lm-knn"):
        width = rows[slug].quality.high - rows[slug].quality.low
        assert abs(rows[slug].quality.value - true[slug].quality.value) < width
        carried = rows[slug].carried
        assert carried.enough
        assert 20 <= carried.support.effective <= carried.support.prompts == 200
        assert abs(carried.self_normalised - rows[slug].quality.value) < width
    # Random asks each model in turn: its weights are the shares of 1/3 over the propensities.
    assert rows[RANDOM].carried.support.heaviest == pytest.approx(1 / 3 / 0.2)
    assert rows["lm-knn"].quality.value > rows[RANDOM].quality.value
    said = " ".join(report.verdict)
    assert "doubly robust estimates, and there is no oracle" in said
    assert "effective sample of" in said
    assert len(tables(report)[0].columns) == 16
    assert len(tables(full)[0].columns) == 11
    assert '<th class="number" scope="col">Effective prompts</th>' in page(report)
    assert "Effective prompts" not in page(full)
    json.dumps(report.to_dict(), allow_nan=False)


def test_tuning_on_such_a_log():
    log = routed(MADE, by_taste)
    budget = 3.0
    tuned = tune(KNN_ROUTER["lm-knn"](), log, budget=budget)
    assert tuned.validation.cost.value <= budget * (1 + 1e-9)
    assert any("the setting rests on an effective sample of" in note for note in tuned.notes)
    test = MADE.split("test")  # what it really does where all answers are known
    estimates = tuned.routing.estimator.estimate(test.prompts)
    mix = tuned.routing.rule
    sides = [(mix.first, 1 - mix.share), (mix.second, mix.share)] if hasattr(mix, "share") else [(mix, 1.0)]
    at_N = np.arange(len(test))
    really = sum(share * test.score_NM[at_N, rule.choose(estimates)].mean() for rule, share in sides)
    assert tuned.test.quality.low - 0.05 <= really <= tuned.test.quality.high + 0.05


def test_what_a_log_does_not_carry_is_refused():
    apart = routed(MADE, lambda dataset: {"cat": [1, 0, 0], "dog": [0, 1, 0], "bird": [0, 0, 1]}[dataset])
    with pytest.raises(RosterError, match=r"too little overlap .*cat-person: effective sample .*--without.*at random"):
        evaluate(apart, KNN_ROUTER, draws=20)
    never = routed(MADE, lambda dataset: [0.5, 0.5, 0.0])
    with pytest.raises(
        RosterError, match=r"dear-all-rounder: 0 prompts of the validation with its score and cost; at least 20"
    ):
        evaluate(never, KNN_ROUTER, draws=20)
    report = evaluate(never.without(["dear-all-rounder"]), KNN_ROUTER, draws=20)
    assert {row.router for row in report.sections[0].rows} >= {"lm-knn"}
    rare = routed(MADE, lambda dataset: [0.49, 0.49, 0.02])
    with pytest.raises(RosterError, match="with its score and cost; at least 20 are needed"):
        tune(KNN_ROUTER["lm-knn"](), rare, budget=3.0)


def test_recorded_propensities_leave_the_rest_to_the_others():
    estimated_NM = np.array([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])
    recorded_NM = np.array([[0.4, np.nan, np.nan], [np.nan, 1.0, np.nan], [np.nan] * 3])
    logged = Logged("last-user", recorded_NM, recorded_NM, recorded_NM)
    found_NM = with_recorded(estimated_NM, logged)
    np.testing.assert_allclose(found_NM, [[0.4, 0.225, 0.375], [0, 1, 0], [0.2, 0.3, 0.5]])


def test_some_models_per_prompt():
    """Two of three models answered each prompt: no prompt is complete, and nothing is thrown away."""
    left_out_N = np.random.default_rng(4).integers(3, size=len(MADE))
    gone_NM = left_out_N[:, None] == np.arange(3)
    log = dataclasses.replace(MADE, score_NM=np.where(gone_NM, np.nan, MADE.score_NM))
    report = evaluate(log, KNN_ROUTER, draws=40)
    rows = {row.router: row for row in report.sections[0].rows}
    assert any("some models answered each prompt" in note for note in report.notes)
    assert rows[RANDOM].quality.value == pytest.approx(MADE.split("test").score_NM.mean(), abs=0.06)


def test_a_file_with_propensities_becomes_such_records(tmp_path):
    log = routed(tiny.records(60), by_taste)
    lines = []
    for n, m in zip(*np.nonzero(np.isfinite(log.score_NM)), strict=True):
        row = {"prompt": log.prompts[n], "model": log.models[m], "score": log.score_NM[n, m]}
        row |= {"propensity": log.logged.propensity_NM[n, m], "split": log.splits[n], "cost": log.cost_NM[n, m]}
        lines.append(json.dumps(row))
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    made = read_log(tmp_path / "log.jsonl")
    order = [made.models.index(model) for model in log.models]
    assert one_each(made)
    np.testing.assert_allclose(made.logged.propensity_NM[:, order], log.logged.propensity_NM)
