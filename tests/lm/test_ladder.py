"""The ladder's protocol: nobody learns from what they are judged on, costs are held, all who were asked are paid."""

import math

import numpy as np
import pytest

from evidence.ladder.answers import Agreeing
from evidence.ladder.page import page
from evidence.ladder.protocol import SHARES, Router, compare, folds, judge, single
from evidence.ladder.vectors import turned
from lm import tiny
from roster.lm.decide import Weights
from roster.lm.estimate import KNN, DatasetTable, Mean
from roster.lm.estimate.agreement import answer_ids
from roster.lm.routing import Routing

RECORDS = tiny.with_answers(count=200)


def test_every_prompt_is_judged_once_by_who_has_not_seen_it():
    judged = np.zeros(len(RECORDS), dtype=int)
    for learn_N, halves in folds(RECORDS):
        for half in halves:
            assert not learn_N[half].any()
            judged[half] += 1
            shares = [np.mean([RECORDS.datasets[n] == name for n in half]) for name in tiny.ANIMALS]
            overall = [np.mean([each == name for each in RECORDS.datasets]) for name in tiny.ANIMALS]
            np.testing.assert_allclose(shares, overall, atol=0.08)  # as in the whole
    assert (judged == 1).all()


def test_readings_are_held_to_their_costs_and_compared_in_pairs():
    found = {}
    for slug, estimator, told in (("lookup", DatasetTable(), True), ("mix", Mean(), False), ("knn", KNN(8), False)):
        router = Router(Routing(estimator, Weights(), sees_dataset=told))
        found[slug] = judge(lambda learn, router=router: router, RECORDS, lambda what: None)
        for s, share in enumerate(SHARES):
            assert np.isfinite(found[slug][0][s]).all()
            assert found[slug][1][s].mean() <= share * RECORDS.cost_NM.mean() * 1.001
    result = compare(found, RECORDS, ["knn"])
    rows = result["shares"]["1.0"]
    assert rows["lookup"]["over_lookup"] == {"value": 0, "low": 0, "high": 0}
    assert rows["mix"]["over_lookup"]["high"] < 0
    assert rows["knn"]["over_lookup"]["value"] == pytest.approx((found["knn"][0][0] - found["lookup"][0][0]).mean())
    assert rows["knn"]["over_lookup_together"]["low"] <= rows["knn"]["over_lookup"]["low"] + 0.01
    assert result["single"]["quality"] == single(RECORDS)[0].mean()


def test_cheap_models_are_asked_until_they_agree_enough():
    contender = Agreeing().fit(RECORDS)
    order, threshold = next(s for s in contender.settings(RECORDS) if len(s[0]) == 3)
    played = contender.play(RECORDS, [(order, threshold)])
    ids = answer_ids(RECORDS.answer_NM)
    for n in range(60):
        weights, paid = {}, 0.0
        for name in order:
            m = RECORDS.column(name)
            paid += RECORDS.cost_NM[n, m]
            weights.setdefault(ids[n, m], [0.0, RECORDS.score_NM[n, m]])[0] += contender.odds[name]
            top = max(weights.values(), key=lambda each: each[0])
            if math.exp(top[0]) / (sum(math.exp(w) for w, _ in weights.values()) + 1) >= threshold:
                break
        assert played.cost_LN[0, n] == pytest.approx(paid)
        assert played.score_LN[0, n] == top[1]


def test_turning_vectors_changes_no_angle():
    x_ND = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    made = turned(x_ND, x_ND[:30])
    np.testing.assert_allclose(made @ made.T, x_ND @ x_ND.T, atol=1e-4)
    assert made[:30].var(0)[0] == max(made[:30].var(0))


def test_the_page_says_what_is_not_shown():
    figures = {"value": 0.5, "low": 0.4, "high": 0.6}
    over = {"value": -0.01, "low": -0.02, "high": 0.001}
    row = {"quality": figures, "over_lookup": over, "over_single": over, "cost_of_single": 0.5}
    rows = {
        "lookup": {**row, "over_lookup_together": None},
        "irt": {**row, "over_lookup_together": over},
        "p2l": {**row, "over_lookup_together": {"value": 0.02, "low": 0.01, "high": 0.03}},
    }
    about = {
        "prompts": 9, "models": 2, "datasets": 1, "currency": "USD", "oracle": 0.9, "notes": ["made up"],
        "random": {"quality": 0.3, "cost": 1.0},
    }  # fmt: skip
    content = {
        "about": {"date": "today", "machine": "m", "versions": "v"},
        "results": {"made": {"about": about, "single": {"quality": 0.6, "cost": 2.0}, "shares": {"1.0": rows}}},
    }
    assert "better than the look-up at the cost of random: p2l; p2l is +0.0200" in page(content)
    assert "There is one data set only" in page(content)
    del rows["p2l"]
    assert "no rung is shown to be better than the look-up" in page(content)
