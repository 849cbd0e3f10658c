"""Mechanisms held against what their authors' code computes, written out here in loops from its description."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from lm import tiny
from roster.errors import RosterError
from roster.lm.calibration import auroc
from roster.lm.decide import Weights
from roster.lm.estimate import ChosenKNN, Contrastive, Skills, Smoothie
from roster.lm.estimate.chosen_knn import TRIED, cross_validated, determination
from roster.lm.estimate.contrastive import to_kin, to_models
from roster.lm.records import Records

TRAIN, TEST = tiny.records(500).split("train"), tiny.records(500).split("test")


def sample_model_loss(sim, score, best, worst):
    """RouterDC's first loss for one batch, prompt by prompt."""
    total = 0.0
    for place in range(best):
        losses = []
        for s, y in zip(sim, score, strict=True):
            good = sorted(range(len(y)), key=lambda m: -y[m])[place]
            bad = [m for m in sorted(range(len(y)), key=lambda m: y[m])[:worst] if y[m] <= 0.5]
            share = math.exp(s[good]) / (math.exp(s[good]) + sum(math.exp(s[m]) for m in bad))
            losses.append(-math.log(share) if y[good] > 0 else 0.0)
        total += sum(losses) / len(losses)
    return total


def test_routerdcs_positives_and_first_loss():
    rng = np.random.default_rng(0)
    # No ties but among zeros and ones, whose places do not matter to the sum over all of them.
    sim, score = rng.normal(size=(40, 5)), rng.random((40, 5)).round(3)
    score[:10] = 0.0  # nobody is good: no loss
    score[10:20] = 0.51 + score[10:20] / 10  # nobody is bad: nothing to be told from
    found = to_models(torch.tensor(sim), torch.tensor(score), 3, 3)
    assert float(found) == pytest.approx(sample_model_loss(sim, score, 3, 3))
    low_but_right = to_models(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.2, 0.0]]), 1, 1)
    assert float(low_but_right) == pytest.approx(math.log(2))  # a positive needs a score above 0, not above a half


def test_routerdcs_second_loss_is_one_of_the_same_cluster_against_three_of_others():
    rows = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    kinds = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    torch.manual_seed(0)
    found = np.mean([float(to_kin(rows, kinds)) for _ in range(1000)])
    sim, expected = (rows @ rows.T).tolist(), []
    for n, kind in enumerate(kinds.tolist()):
        kin = [m for m in range(9) if m != n and kinds[m] == kind]
        strangers = itertools.combinations([m for m in range(9) if kinds[m] != kind], 3)
        for one, others in itertools.product(kin, strangers):  # all draws there are, equally likely
            share = math.exp(sim[n][one]) / sum(math.exp(sim[n][m]) for m in (one, *others))
            expected.append(-math.log(share))
    assert found == pytest.approx(np.mean(expected), abs=0.01)
    assert float(to_kin(rows[:3], torch.tensor([0, 1, 2]))) == 0  # nobody has company


def test_routerdc_decides_for_the_most_similar_model():
    fitted = Contrastive(epochs=3).fit(TRAIN)
    similar_NM = fitted.similar(fitted.encoder.encode(TEST.prompts))
    np.testing.assert_array_equal(Weights().choose(fitted.estimate(TEST.prompts)), similar_NM.argmax(1))


def triplet_weights(answers, near):
    """Smoothie's weights on some prompts: the mean over all pairs of others of half of (d_ij + d_ik - d_jk)."""
    models = answers.shape[1]

    def distance(i, j):
        return np.mean([np.sum((answers[n, i] - answers[n, j]) ** 2) for n in near])

    noise = []
    for i in range(models):
        others = [m for m in range(models) if m != i]
        pairs = [(j, k) for j in others for k in others if j < k]
        noise.append(np.mean([(distance(i, j) + distance(i, k) - distance(j, k)) / 2 for j, k in pairs]))
    return answers.shape[2] / (2 * np.array(noise))


@pytest.mark.parametrize("neighbours", [1, 4, 0])
def test_smoothie_at_test_time_weighs_the_answers_to_the_prompts_themselves(neighbours):
    rng = np.random.default_rng(1)
    prompts, truth = rng.normal(size=(12, 3)), rng.normal(size=(12, 1, 6))
    answers = truth + rng.normal(size=(12, 4, 6)) * np.array([0.3, 1.0, 0.6, 2.0])[:, None]
    found = Smoothie.test_time(prompts, answers, neighbours)
    for n in range(12):
        order = np.argsort([np.sum((prompts[n] - other) ** 2) for other in prompts])
        expected = triplet_weights(answers, order[:neighbours] if neighbours else range(12))
        np.testing.assert_allclose(found[n], expected / np.abs(expected).sum(), rtol=1e-8)
    if neighbours == 0:
        assert (found.argmax(1) == 0).all()
    with pytest.raises(RosterError, match="at least 3 models"):
        Smoothie.test_time(prompts, answers[:, :2], 1)


def test_carrots_k_is_the_one_that_scikit_learn_would_choose():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(160, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    good = (x[:, :3] + 0.5 * rng.normal(size=(160, 3)) > 0).astype(float)
    cost = np.exp(x[:, :2]) + 0.1 * rng.normal(size=(160, 2))
    for values, judge, model, score in (
        (good, auroc, KNeighborsClassifier, lambda m, a, b: roc_auc_score(b, m.predict_proba(a)[:, 1])),
        (cost, determination, KNeighborsRegressor, lambda m, a, b: m.score(a, b)),
    ):
        means = {}
        for k in (k for k in TRIED if k <= 64):
            found = [
                score(model(k, metric="cosine", algorithm="brute").fit(x[learn], y[learn]), x[apart], y[apart])
                for learn, apart in KFold(5, shuffle=True, random_state=0).split(x)
                for y in values.T
            ]
            means[k] = np.mean(found)
        assert cross_validated(x, values, judge) == max(means, key=means.get)


def test_carrots_estimates_are_plain_means_of_so_many_neighbours():
    fitted = ChosenKNN().fit(TRAIN)
    assert fitted.neighbours in TRIED
    x_ND = fitted.encoder.encode(TEST.prompts)
    at = fitted.nearest(x_ND)
    found = fitted.estimate(TEST.prompts)
    assert at.shape[1] == fitted.neighbours
    np.testing.assert_allclose(found.quality_NM, TRAIN.score_NM[at].mean(1), atol=1e-6)
    fitted.neighbours = fitted.cost_neighbours
    np.testing.assert_allclose(found.cost_NM, TRAIN.cost_NM[fitted.nearest(x_ND)].mean(1))


def worded(prompts, score_NM):
    made = tiny.records(len(prompts))
    return Records(**{**vars(made), "prompts": tuple(prompts), "score_NM": score_NM, "datasets": ("",) * len(prompts)})


def test_symbolic_moe_maps_unknown_skills_to_the_nearest():
    prompts = [f"{word} number {n}" for n in range(20) for word in ("multiply", "translate")]
    score_NM = np.tile([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]], (20, 1))
    fitted = Skills(per_prompt=1).fit(worded(prompts, score_NM))
    assert fitted.skills("multiplying 99") == ["multiply"]
    assert fitted.skills("a translation, xq") == ["translate"]
    assert fitted.skills("zzqj") == []
    chosen = Weights().choose(fitted.estimate(["multiplying 77", "translation 77"]))
    assert chosen.tolist() == [0, 1]
    deaf = Skills(per_prompt=1, nearest=2.0).fit(worded(prompts, score_NM))
    assert deaf.skills("multiplying") == []


def test_symbolic_moe_recruits_by_suitability_times_strength_at_its_temperature():
    fitted = Skills().fit(TRAIN)
    suit_NM, _ = fitted._suitability(TEST.prompts, fitted._nearest(TEST.prompts))
    found = fitted.recruiting(TEST.prompts)
    strength = [share ** (1 / 0.5) for share in TRAIN.score_NM.mean(0)]
    for n in range(len(TEST)):
        weights = [suit * part / sum(strength) for suit, part in zip(suit_NM[n], strength, strict=True)]
        np.testing.assert_allclose(found[n], np.array(weights) / sum(weights))
