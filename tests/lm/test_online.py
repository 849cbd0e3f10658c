"""Learning online: beliefs are exact, replays show only what was chosen, the bandit learns and takes up new models."""

import numpy as np
import pytest

from lm import tiny
from roster.errors import RosterError
from roster.lm.online import Belief, IdentityBandit, replay
from roster.lm.online.informed import InformedThompson

MADE = tiny.records()


def test_a_belief_is_the_regression_on_all_it_saw():
    rng = np.random.default_rng(0)
    f_ND, score_N = rng.normal(size=(30, 4)), rng.random(30)
    belief = Belief(4, ridge=2.0, prior=0.3)
    for f_D, score in zip(f_ND, score_N, strict=True):
        belief.observe(f_D, score)
    precision_DD = 2.0 * np.eye(4) + f_ND.T @ f_ND
    new_KD = rng.normal(size=(3, 4))
    np.testing.assert_allclose(
        belief.mean(new_KD), 0.3 + new_KD @ np.linalg.solve(precision_DD, f_ND.T @ (score_N - 0.3))
    )
    np.testing.assert_allclose(
        belief.width(new_KD), np.sqrt((new_KD * np.linalg.solve(precision_DD, new_KD.T).T).sum(1))
    )


class Turns:
    """Chooses the arms in turn and keeps what it is told."""

    def __init__(self):
        self.told = []

    def choose(self, x_D):
        return len(self.told) % 2

    def learn(self, x_D, arm, gain):
        self.told.append((arm, gain))


def test_a_replay_shows_the_chosen_gain_only():
    gain_NM = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    learner = Turns()
    played = replay(learner, np.zeros((3, 1)), gain_NM)
    assert learner.told == [(0, 1.0), (1, 4.0), (0, 5.0)]
    assert played.regret(gain_NM.max(1)) == 2.0
    with pytest.raises(RosterError, match="every cell"):
        replay(Turns(), np.zeros((3, 1)), np.where(gain_NM == 6, np.nan, gain_NM))


def test_the_bandit_learns_who_knows_what():
    bandit = IdentityBandit(probes=10).fit(MADE.split("train"))
    assert bandit.asked == len(MADE.split("train")) - 10
    test = MADE.split("test")
    chosen_N = bandit.estimate(test.prompts).quality_NM[:, :2].argmax(1)
    wanted_N = np.array([{"cat": 0, "dog": 1}.get(name, -1) for name in test.datasets])
    assert (chosen_N == wanted_N)[wanted_N >= 0].mean() > 0.9


def test_a_model_added_later_has_a_share_in_what_was_learned():
    train, test = MADE.split("train"), MADE.split("test")
    bandit = IdentityBandit(probes=20).fit(train.only(tiny.MODELS[1:]))
    bandit.add_model("cat-person", train.rows(np.arange(20)))
    quality_N = bandit.estimate(test.prompts).quality_NM[:, 2]
    cats_N = np.array([name == "cat" for name in test.datasets])
    assert quality_N[cats_N].mean() > quality_N[~cats_N].mean() + 0.3
    with pytest.raises(RosterError, match="already known"):
        bandit.add_model("cat-person", train)


def test_an_observation_moves_the_estimate():
    bandit = IdentityBandit(probes=20).fit(MADE.split("train"))
    prompt = MADE.prompts[0]
    before = bandit.estimate([prompt]).quality_NM[0]
    for _ in range(50):
        bandit.observe(prompt, "cat-person", 0.5)
    after = bandit.estimate([prompt]).quality_NM[0]
    assert abs(after[0] - 0.5) < abs(before[0] - 0.5)
    with pytest.raises(RosterError, match="does not know"):
        bandit.observe(prompt, "nobody", 1.0)


def test_demonstrations_move_the_prior_as_bayes_says():
    names, shown = ("a", "b"), ("a",) * 6 + ("b",) * 2
    learner = InformedThompson(names, shown, competence=4.0, prior=(0.5, 0.3), candidates=2000)
    drawn_KM = np.stack([learner.draw() for _ in range(3000)])
    line = np.linspace(-1.5, 2.5, 401)
    a, b = np.meshgrid(line, line, indexing="ij")
    prior = np.exp(-((a - 0.5) ** 2 + (b - 0.5) ** 2) / (2 * 0.3**2))
    chance_a = 1 / (1 + np.exp(4.0 * (b - a)))
    weight = prior * chance_a**6 * (1 - chance_a) ** 2
    assert drawn_KM[:, 0].mean() == pytest.approx((weight * a).sum() / weight.sum(), abs=0.02)
    assert (drawn_KM[:, 0] > drawn_KM[:, 1]).mean() == pytest.approx(weight[a > b].sum() / weight.sum(), abs=0.04)


def test_without_competence_demonstrations_say_nothing():
    names = ("a", "b", "c")
    told = InformedThompson(names, ("a",) * 9, competence=0.0, seed=3)
    plain = InformedThompson(names, seed=3)
    gain_NM = np.random.default_rng(0).random((50, 3))
    x_ND = np.zeros((50, 1))
    assert (replay(told, x_ND, gain_NM).choice_N == replay(plain, x_ND, gain_NM).choice_N).all()
    with pytest.raises(RosterError, match="demonstrations choose 'd'"):
        InformedThompson(names, ("d",))
