"""IRT, EmbedLLM, prompt-to-leaderboard, Avengers and ensembles against what their sources say, computed otherwise."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit

from lm import tiny
from roster.errors import RosterError
from roster.lm.decide import Weights
from roster.lm.encode import Encoder
from roster.lm.estimate import IRT, ClusterRanks, Ensemble, KMeansTable, Leaderboard, Logistic, Mean, ModelVectors
from roster.lm.estimate.ensemble import stacking
from roster.lm.estimate.irt import log_likelihood
from roster.lm.estimate.leaderboard import MARGIN, chances, outcomes
from roster.lm.records import Records

TRAIN, TEST = tiny.records(500).split("train"), tiny.records(500).split("test")


class Given(Encoder):
    """Prompts are numbers of rows that the test made."""

    def __init__(self, rows):
        self.rows = rows

    def fit(self, prompts):
        return self

    def encode(self, prompts):
        return self.rows[[int(prompt) for prompt in prompts]]


def numbered(rows, score_NM):
    count, models = score_NM.shape
    return Records(
        name="made",
        prompts=tuple(map(str, range(count))),
        models=tuple(f"m{m}" for m in range(models)),
        score_NM=score_NM,
        cost_NM=np.ones(score_NM.shape),
        delay_NM=np.ones(score_NM.shape),
        datasets=("",) * count,
        splits=("train",) * count,
    ), Given(rows.astype(np.float32))


def test_the_likelihood_is_that_of_the_two_parameter_model():
    rng = np.random.default_rng(0)
    demand, hard, ability = rng.gamma(2, 1, (30, 2)), rng.normal(size=30), rng.normal(size=(2, 4))
    right = (rng.random((30, 4)) < expit(demand @ ability - hard[:, None])).astype(float)
    right[rng.random(right.shape) < 0.2] = np.nan
    expected = 0.0
    for n, m in np.ndindex(right.shape):
        if np.isfinite(right[n, m]):
            chance = expit(sum(demand[n, k] * ability[k, m] for k in range(2)) - hard[n])
            expected += stats.bernoulli.logpmf(int(right[n, m]), chance)
    assert log_likelihood(right, demand, hard, ability) == pytest.approx(expected)


def test_irt_finds_the_abilities_and_difficulties_that_made_the_answers():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(1500, 3))
    hard_N, demand_N = 1.5 * rows[:, 0], np.log1p(np.exp(rows[:, 1]))
    ability_M = np.linspace(-1.5, 1.5, 6)
    right_NM = (rng.random((1500, 6)) < expit(demand_N[:, None] * ability_M - hard_N[:, None])).astype(float)
    records, encoder = numbered(rows, right_NM)
    fitted = IRT(abilities=1, ridge=0.01, encoder=encoder).fit(records)
    demanded_NK, found_N = fitted.items(rows)
    assert np.corrcoef(fitted.ability_KM[0], ability_M)[0, 1] > 0.97
    assert np.corrcoef(found_N, hard_N)[0, 1] > 0.95
    assert np.corrcoef(demanded_NK[:, 0], demand_N)[0, 1] > 0.9
    ours = log_likelihood(right_NM, demanded_NK, found_N, fitted.ability_KM)
    truth = log_likelihood(right_NM, demand_N[:, None], hard_N, ability_M[None])
    assert ours > truth - 10  # the maximum is at least about as likely as the truth


def test_embedllms_matrix_is_its_factors_multiplied():
    fitted = ModelVectors(width=8, epochs=2).fit(TRAIN)
    assert fitted.vector_MW.shape == (3, 8)
    x_ND = fitted.encoder.encode(TRAIN.prompts)
    with torch.random.fork_rng(devices=[]):  # the network again, to run it as the source does: one pair at a time
        torch.manual_seed(fitted.seed)
        project = torch.nn.Linear(x_ND.shape[1], 8)
        vectors, classify = torch.nn.Embedding(3, 8), torch.nn.Linear(8, 1)
    start = ModelVectors(width=8, epochs=0).fit(TRAIN)
    with torch.no_grad():
        for n, m in ((0, 0), (5, 2)):
            logit = classify(vectors(torch.tensor(m)) * project(torch.from_numpy(x_ND[n])))
            assert start.quality(x_ND)[0][n, m] == pytest.approx(float(torch.sigmoid(logit)), abs=1e-5)


def test_the_leaderboards_chances_are_the_grounded_rao_kuppers():
    first, second = np.triu_indices(3, k=1)
    rating, eta = np.array([[0.5, -1.0, 2.0]]), np.array([0.3])
    found = chances(torch.tensor(rating), torch.tensor(eta), first, second).numpy()[0]
    theta = math.exp(0.3) + 1 + MARGIN
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        a, b = math.exp(rating[0, i]), math.exp(rating[0, j])
        win, lose, bad = a / (a + theta * b + 1), b / (b + theta * a + 1), 1 / (1 + a + b)
        assert found[pair] == pytest.approx([win, lose, 1 - win - lose - bad, bad])
    assert (found >= 0).all()
    score = np.array([[1.0, 0.2, 1.0], [0.0, 0.0, np.nan]])
    assert outcomes(score, first, second).tolist() == [[0, 2, 1], [3, -1, -1]]


def test_the_leaderboards_ratings_are_those_of_the_likeliest_head():
    """Without a prompt to read, the fit is the plain maximum over three ratings and eta, found by another optimiser."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(3)
    score_NM = (rng.random((400, 3)) < [0.8, 0.5, 0.3]).astype(float)
    records, encoder = numbered(np.zeros((400, 1)), score_NM)
    fitted = Leaderboard(encoder=encoder).fit(records)
    first, second = np.triu_indices(3, k=1)
    outcome = outcomes(score_NM, first, second)

    def missed(values):
        total = 0.0
        for pair, (i, j) in enumerate(zip(first, second, strict=True)):
            a, b, theta = math.exp(values[i]), math.exp(values[j]), math.exp(values[3]) + 1 + MARGIN
            win, lose, bad = a / (a + theta * b + 1), b / (b + theta * a + 1), 1 / (1 + a + b)
            each = np.log([win, lose, 1 - win - lose - bad, bad])
            total -= each[outcome[:, pair]].sum()
        return total / 1200

    best = minimize(missed, np.zeros(4), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10, "maxiter": 4000})
    np.testing.assert_allclose(fitted.head_M, best.x[:3], atol=0.01)


def test_avengers_vote_by_ranks_in_the_nearest_clusters():
    fitted = ClusterRanks(clusters=5, nearest=3, sharpness=3.0).fit(TRAIN)
    x_ND = fitted.encoder.encode(TEST.prompts[:20])
    found, _ = fitted.suitability(x_ND)
    for n, x_D in enumerate(x_ND):
        distances = [1 - float(centre @ x_D) for centre in fitted.centre_GD]
        near = sorted(range(5), key=lambda g: distances[g])[:3]
        weights = np.exp([-3.0 * distances[g] for g in near])
        expected = np.zeros(3)
        for weight, g in zip(weights / weights.sum(), near, strict=True):
            order = np.argsort(-fitted.mean_GM[g], kind="stable").tolist()
            expected += [weight / (order.index(m) + 0.1) for m in range(3)]
        np.testing.assert_allclose(found[n], expected, rtol=1e-5)
    np.testing.assert_array_equal(fitted.quality(x_ND)[0].argmax(1), found.argmax(1))


def test_stacking_gives_weight_to_who_knows_and_none_to_noise():
    rng = np.random.default_rng(4)
    truth = rng.random((300, 4))
    members = np.stack([truth + 0.1 * rng.normal(size=truth.shape), rng.random(truth.shape), np.full(truth.shape, 0.5)])
    weight_E = stacking(members, (rng.random(truth.shape) < truth).astype(float))
    assert weight_E.sum() == pytest.approx(1)
    assert (weight_E >= 0).all()
    assert weight_E[0] > 0.7


def test_caution_turns_away_from_what_members_disagree_about():
    class Says(Mean):
        def __init__(self, quality_M, expense=None):
            super().__init__(expense)
            self.said = np.array(quality_M)

        def level(self, records):
            return self.said

    members = [Says([0.95, 0.7, 0.1]), Says([0.55, 0.7, 0.1])]
    fitted = Ensemble(members, folds=0).fit(TRAIN)
    found = fitted.estimate(TEST.prompts[:1])
    np.testing.assert_allclose(found.quality_NM[0], [0.75, 0.7, 0.1])
    assert found.std_NM[0, 0] > 0.2 > found.std_NM[0, 1]
    assert Weights().choose(found)[0] == 0
    assert Weights(caution=1.0).choose(found)[0] == 1


def test_an_ensemble_is_no_worse_than_its_worst_member_and_needs_one():
    fitted = Ensemble([Mean(), Logistic(), KMeansTable(8)], folds=2).fit(TRAIN)
    assert fitted.weight_E[0] < 0.5
    with pytest.raises(RosterError, match="at least one member"):
        Ensemble([])
