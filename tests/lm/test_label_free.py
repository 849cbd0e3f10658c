"""Quality without labels: recovered where it was planted, and the closed form against all triples."""

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from lm import tiny
from roster.errors import RosterError
from roster.lm.estimate import Agreement, Smoothie
from roster.lm.estimate.agreement import canonical, one_coin
from roster.lm.estimate.label_free import distances, noise


def planted(models=9, questions=400, seed=0):
    rng = np.random.default_rng(seed)
    accuracy_M = np.linspace(0.2, 0.9, models)
    right_NM = rng.random((questions, models)) < accuracy_M
    wrong_NM = rng.integers(1, 9, right_NM.shape)
    return np.where(right_NM, "0", wrong_NM.astype(str)).astype(object), right_NM


def test_one_coin_finds_the_accuracies():
    answers, right_NM = planted()
    found_M, sure_NM = one_coin(answers)
    np.testing.assert_allclose(found_M, right_NM.mean(0), atol=0.05)
    assert sure_NM[right_NM].mean() > 0.95


def test_missing_answers_are_wrong():
    answers, _ = planted(models=4)
    answers[:, 0] = None
    assert one_coin(answers)[0][0] == pytest.approx(0.02)


def test_noise_is_the_mean_over_all_triples():
    rng = np.random.default_rng(0)
    d = rng.random((5, 5))
    d = (d + d.T) * (1 - np.eye(5))
    for i in range(5):
        others = [m for m in range(5) if m != i]
        triples = [(d[i, j] + d[i, k] - d[j, k]) / 2 for j, k in itertools.combinations(others, 2)]
        assert noise(d)[i] == pytest.approx(np.mean(triples))


def test_smoothie_recovers_planted_noise():
    rng = np.random.default_rng(0)
    size_M = np.linspace(0.2, 2.0, 6)
    z_NMD = rng.normal(size=(500, 1, 16)) + size_M[:, None] * rng.normal(size=(500, 6, 16))
    d_MM = ((z_NMD[:, :, None] - z_NMD[:, None]) ** 2).sum(-1).mean(0)
    np.testing.assert_allclose(noise(d_MM), 16 * size_M**2, rtol=0.15)


def test_embedded_answers_of_any_scale_rank_by_their_noise():
    rng = np.random.default_rng(0)
    made = tiny.records(count=240)
    cat_N = np.array([name == "cat" for name in made.datasets])
    size_NM = np.where(cat_N[:, None], [0.2, 1.0, 0.6], [1.0, 0.2, 0.6])
    z_NMD = rng.normal(size=(240, 1, 32)) + size_NM[:, :, None] * rng.normal(size=(240, 3, 32))
    found = Smoothie(neighbours=40).fit_embedded(made, z_NMD).estimate(made.prompts).quality_NM
    assert (found[cat_N].argmax(1) == 0).mean() > 0.95
    assert (found[~cat_N].argmax(1) == 1).mean() > 0.95
    scaled = Smoothie(neighbours=40).fit_embedded(made, 100 * z_NMD).estimate(made.prompts).quality_NM
    np.testing.assert_allclose(scaled, found, atol=1e-5)
    whole = Smoothie(neighbours=0).fit_embedded(made, z_NMD).estimate(made.prompts[:1]).quality_NM[0]
    loss_M = (size_NM**2).mean(0)
    assert (whole[0] - whole[1]) / (whole[2] - whole[0]) == pytest.approx(
        (loss_M[1] - loss_M[0]) / (loss_M[0] - loss_M[2]), rel=0.2
    )


def test_models_rank_by_accuracy():
    made = tiny.with_answers()
    overall = Smoothie(neighbours=0, answers="exact").fit(made).estimate(made.prompts[:1]).quality_NM[0]
    assert overall.argmax() == made.score_NM.mean(0).argmax()
    answers, right_NM = planted()
    assert spearmanr(one_coin(answers)[0], right_NM.mean(0)).statistic > 0.95
    assert spearmanr(1 - noise(distances(answers, "exact").mean(0)), right_NM.mean(0)).statistic > 0.95


def test_distances():
    answers = np.array([["a cat sat", "'a cat sat'", "dogs", None]], dtype=object)
    exact = distances(answers, "exact")[0]
    assert exact[0].tolist() == [0, 0, 1, 1]
    text = distances(np.array([["a cat sat", "a cat sat", "dogs bark"]] * 3, dtype=object), "text")[0]
    assert text[0, 1] == pytest.approx(0, abs=1e-6)
    assert text[0, 2] > 0.5


def test_canonical_answers():
    assert canonical(" '[1, 2]' ") == "[1, 2]"
    assert canonical("$1,200.00") == canonical("1200") == "1200"
    assert canonical("'17'") == "17"
    assert canonical("''") is None
    assert canonical(None) is None


def test_smoothie_finds_who_is_right_about_what():
    made = tiny.with_answers(count=480)
    found = Smoothie(neighbours=60, answers="exact").fit(made).estimate(made.prompts)
    cats = np.array([name == "cat" for name in made.datasets])
    assert (found.quality_NM[cats, 0] > found.quality_NM[cats, 1]).mean() > 0.9


def test_refusals():
    with pytest.raises(RosterError, match="no answers"):
        Smoothie().fit(tiny.records())
    with pytest.raises(RosterError, match="no answers"):
        Agreement().fit(tiny.records())
    with pytest.raises(RosterError, match="at least 3"):
        Smoothie().fit(tiny.with_answers().only(["cat-person", "dog-person"]))
    with pytest.raises(RosterError, match="not one per prompt and model"):
        Smoothie().fit_embedded(tiny.records(count=10), np.zeros((10, 2, 4)))
    with pytest.raises(RosterError, match="not finite"):
        Smoothie().fit_embedded(tiny.records(count=10), np.full((10, 3, 4), np.nan))
    with pytest.raises(RosterError, match="'text' or 'exact'"):
        Smoothie(answers="words")
