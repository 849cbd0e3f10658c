"""Every estimator: learns what is there to learn, lives with gaps, takes up a new model, survives the disk."""

import inspect
from functools import partial

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression

from lm import tiny
from roster.errors import RosterError
from roster.lm import estimate
from roster.lm.calibration import auroc
from roster.lm.decide import Weights
from roster.lm.offline import known_parts
from roster.lm.part import pack, unpack
from roster.lm.records import Records

LABELLED = [
    partial(estimate.Aptitude, tasks=6),  # as many as a hundred prompts can test
    estimate.Boosted,
    estimate.ChosenKNN,
    partial(estimate.ClusterRanks, clusters=6, nearest=2),
    estimate.Contrastive,
    estimate.DatasetTable,
    estimate.Domains,
    estimate.Elo,
    partial(estimate.Ensemble, [estimate.Logistic(), estimate.KMeansTable(8)], folds=2),
    estimate.Factors,
    partial(estimate.IRT, abilities=2, rounds=40),
    estimate.KMeansTable,
    estimate.KNN,
    estimate.Leaderboard,
    estimate.Logistic,
    estimate.Mean,
    estimate.ModelVectors,
    estimate.Perceptron,
    estimate.Skills,
]
BLIND = {estimate.Mean, estimate.Elo}
each_labelled = pytest.mark.parametrize("kind", LABELLED, ids=lambda kind: getattr(kind, "func", kind).__name__)
TRAIN, TEST = tiny.records(500).split("train"), tiny.records(500).split("test")


def test_none_is_forgotten():
    classes = {each for name, each in vars(estimate).items() if inspect.isclass(each) and name in estimate.__all__}
    bases = {estimate.Estimates, estimate.Estimator, estimate.Embedding, estimate.Expense, estimate.Truth}
    assert classes - bases - {estimate.Dice, estimate.Agreement, estimate.Smoothie} == {
        getattr(kind, "func", kind) for kind in LABELLED
    }


@each_labelled
def test_estimates_are_complete_and_route_well(kind):
    found = kind().fit(TRAIN).estimate(TEST.prompts, TEST.datasets)
    assert found.models == TRAIN.models
    for matrix in (found.quality_NM, found.std_NM, found.cost_NM, found.delay_NM):
        assert matrix.shape == TEST.score_NM.shape
        assert np.isfinite(matrix).all()
    assert ((found.quality_NM >= 0) & (found.quality_NM <= 1)).all()
    assert (found.std_NM > 0).all()
    chosen = TEST.score_NM[np.arange(len(TEST)), found.quality_NM.argmax(1)].mean()
    single = TEST.score_NM[:, TRAIN.score_NM.mean(0).argmax()].mean()
    assert chosen == single if kind in BLIND else chosen > single


@each_labelled
def test_missing_scores_are_left_out(kind):
    score_NM = TRAIN.score_NM.copy()
    score_NM[np.random.default_rng(0).random(score_NM.shape) < 0.3] = np.nan
    gaps = Records(**{**vars(TRAIN), "score_NM": score_NM})
    found = kind().fit(gaps).estimate(TEST.prompts, TEST.datasets)
    assert np.isfinite(found.quality_NM).all()
    all_gone = Records(**{**vars(TRAIN), "score_NM": np.where([True, False, False], np.nan, score_NM)})
    with pytest.raises(RosterError, match="no score of model 'cat-person'"):
        kind().fit(all_gone)


@each_labelled
def test_a_model_is_added_from_probes(kind):
    estimator = kind().fit(TRAIN.only(["cat-person", "dear-all-rounder"]))
    estimator.add_model("dog-person", TRAIN.rows(np.arange(60)))
    assert estimator.models == ("cat-person", "dear-all-rounder", "dog-person")
    found = estimator.estimate(TEST.prompts, TEST.datasets)
    assert np.isfinite(found.quality_NM).all()
    assert found.cost_NM[:, 2] == pytest.approx(TEST.cost_NM[:, 1])
    truth = TEST.score_NM[:, 1]
    guess = found.quality_NM[:, 2]
    if kind in BLIND:
        assert guess[0] == pytest.approx(TRAIN.score_NM[:60, 1].mean())
    else:
        assert guess[truth == 1].mean() > guess[truth == 0].mean()
    with pytest.raises(RosterError, match="already known"):
        estimator.add_model("dog-person", TRAIN)


@each_labelled
def test_the_disk_changes_nothing(kind):
    estimator = kind().fit(TRAIN.only(["cat-person", "dear-all-rounder"]))
    estimator.add_model("dog-person", TRAIN.rows(np.arange(60)))
    again = unpack(*pack(estimator), known_parts())
    before, after = (each.estimate(TEST.prompts, TEST.datasets) for each in (estimator, again))
    assert before.models == after.models
    for name in ("quality_NM", "std_NM", "cost_NM", "delay_NM"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


@each_labelled
def test_one_prompt_is_estimated_as_in_a_batch(kind):
    estimator = kind().fit(TRAIN)
    batch = estimator.estimate(TEST.prompts, TEST.datasets).quality_NM
    for n in (0, 7):
        alone = estimator.estimate([TEST.prompts[n]], [TEST.datasets[n]]).quality_NM
        np.testing.assert_allclose(alone[0], batch[n], atol=1e-5)


def test_boosted_trees_are_scikit_learns():
    estimator = estimate.Boosted(trees=9, depth=2, dimensions=6).fit(TRAIN)
    x_ND = estimator.encoder.encode(TEST.prompts)
    ours, _ = estimator.quality(x_ND)
    for m in range(3):
        theirs = GradientBoostingRegressor(
            n_estimators=9, max_depth=2, learning_rate=0.1, subsample=0.5, max_features=0.5, random_state=0
        ).fit(estimator.encoder.encode(TRAIN.prompts)[:, :6], TRAIN.score_NM[:, m])
        np.testing.assert_allclose(ours[:, m], theirs.predict(x_ND[:, :6]).clip(0, 1), atol=1e-9)


def test_shares_of_a_good_answer_pull_both_ways():
    x_ND = np.random.default_rng(0).normal(size=(60, 3))
    share_N = np.where(x_ND[:, 0] > 0, 0.75, 0.25)
    weight_D, bias = estimate.logistic.fit_logistic(x_ND, share_N, 1.0)
    # Four copies of each prompt, right in that share, say the same; only the penalty weighs less against them.
    copies = np.repeat(x_ND, 4, axis=0)
    labels = np.concatenate([[1, 1, 1, 0] if share > 0.5 else [1, 0, 0, 0] for share in share_N])
    theirs = LogisticRegression(C=0.25, max_iter=500).fit(copies, labels)
    np.testing.assert_allclose(weight_D, theirs.coef_[0], atol=1e-3)
    assert bias == pytest.approx(theirs.intercept_[0], abs=1e-3)


def test_the_oracle_knows_its_own_prompts_only():
    truth = estimate.Truth(TEST)
    np.testing.assert_array_equal(truth.estimate(TEST.prompts).quality_NM, TEST.score_NM)
    with pytest.raises(RosterError, match="only knows"):
        truth.estimate(TRAIN.prompts)


def test_dice_choose_everyone():
    dice = estimate.Dice(seed=3).fit(TRAIN)
    chosen = Weights().choose(dice.estimate(TRAIN.prompts))
    assert np.bincount(chosen, minlength=3).min() > len(TRAIN) / 6


def test_elo_ranks_by_wins():
    elo = estimate.Elo().fit(TRAIN)
    assert elo.quality_M.argmax() == TRAIN.score_NM.mean(0).argmax()
    assert elo.quality_M.sum() == pytest.approx(1.5)  # shares of wins against the other two


def test_expense_recovers_a_line_and_admits_ignorance():
    found = estimate.Expense().fit(tiny.records(delays=False))
    cost_NM, delay_NM = found.estimate(["x" * 400])
    np.testing.assert_allclose(cost_NM[0], tiny.COST * (1 + 0.1 * 100), rtol=1e-6)
    assert np.isnan(delay_NM).all()


def test_factors_know_recorded_prompts_better_than_new_ones():
    rng = np.random.default_rng(0)
    hard_N = rng.random(300)
    score_NM = (rng.random((300, 8)) > hard_N[:, None]).astype(float)
    made = tiny.records(300)
    made = Records(
        **{
            **vars(made),
            "models": tuple("abcdefgh"),
            "score_NM": score_NM,
            "cost_NM": np.ones((300, 8)),
            "delay_NM": np.ones((300, 8)),
        }
    )
    known = estimate.Factors(rank=2).fit(made.only(list("abcdefg")))
    expected_N = known.recorded("h", made.rows(np.arange(50)), made.prompts[50:])
    assert auroc(expected_N, score_NM[50:, 7]) > 0.7  # their texts say nothing at all about it
    with pytest.raises(KeyError):
        known.recorded("h", made.rows(np.arange(50)), ["a prompt nobody has asked"])
