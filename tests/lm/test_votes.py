"""Votes between models: the log, Bradley-Terry against other people's code, the report, and the policy made of it."""

import json
import math

import numpy as np
import pytest
from scipy import optimize

from roster.errors import RosterError
from roster.lm.decide import Weights
from roster.lm.offline import OfflinePolicy, load_policy
from roster.lm.votes import Preference
from roster.lm.votes.agreement import evaluate_votes, page, write_report
from roster.lm.votes.ballots import Votes, is_of_votes, read_votes
from roster.lm.votes.preference import fit_strengths
from roster.lm.votes.storing import are_here, load_votes, save_votes

MODELS = ("generalist", "poet", "solver")
STRENGTH = {"poem": np.array([0.5, 2.0, -1.5]), "sum": np.array([0.5, -1.5, 2.0]), "chat": np.array([1.0, 0.0, -0.5])}
WORDS = {"poem": "write a poem on {} rhymes", "sum": "what is the sum of {} numbers", "chat": "tell me about {} please"}


def made(count=900, seed=0, matters=True, ties=0.1):
    rng = np.random.default_rng(seed)
    kinds = [list(STRENGTH)[k] for k in rng.integers(3, size=count)]
    pair_V2 = np.stack([rng.permutation(3)[:2] for _ in range(count)])
    strength_VM = np.array([STRENGTH[kind if matters else "chat"] for kind in kinds])
    gap_V = strength_VM[np.arange(count), pair_V2[:, 0]] - strength_VM[np.arange(count), pair_V2[:, 1]]
    share_V = (rng.random(count) < 1 / (1 + np.exp(-gap_V))).astype(float)
    share_V[rng.random(count) < ties] = 0.5
    prompts = tuple(WORDS[kind].format(n) for n, kind in enumerate(kinds))
    splits = tuple(("train", "train", "train", "validation", "test")[n % 5] for n in range(count))
    return Votes("made", prompts, MODELS, pair_V2, share_V, splits)


def negative(theta, votes, x_VF, ridge_F):
    """The penalised likelihood, plainly; theta is [M, F]."""
    theta_MF = theta.reshape(len(votes.models), -1)
    a, b = votes.pair_V2.T
    gap_V = ((theta_MF[a] - theta_MF[b]) * x_VF).sum(1)
    loss = np.logaddexp(0, -gap_V) * votes.share_V + np.logaddexp(0, gap_V) * (1 - votes.share_V)
    return loss.sum() + 0.5 * (ridge_F * theta_MF**2).sum()


def test_without_a_context_it_is_bradley_and_terrys():
    choix = pytest.importorskip("choix")
    votes = made(ties=0)
    strength_M, weight_DM = fit_strengths(votes, np.zeros((len(votes), 0), np.float32), 1e-6, math.inf)
    assert weight_DM.shape == (0, 3)
    won = [(a, b) if share else (b, a) for (a, b), share in zip(votes.pair_V2.tolist(), votes.share_V, strict=True)]
    theirs_M = choix.ilsr_pairwise(3, won)
    np.testing.assert_allclose(strength_M, theirs_M - theirs_M.mean(), atol=1e-4)


@pytest.mark.parametrize("context", [0.5, 20.0])
def test_with_ties_and_a_context_it_minimises_what_it_says(context):
    votes = made(200)
    x_VD = np.random.default_rng(1).normal(size=(200, 2)).astype(np.float32)
    strength_M, weight_DM = fit_strengths(votes, x_VD, 0.1, context)
    x_VF = np.hstack([np.ones((200, 1)), x_VD])
    ridge_F = np.array([0.1, context, context])
    found = optimize.minimize(negative, np.zeros(9), args=(votes, x_VF, ridge_F), tol=1e-10)
    theirs_MF = found.x.reshape(3, 3)
    np.testing.assert_allclose(strength_M, theirs_MF[:, 0] - theirs_MF[:, 0].mean(), atol=1e-4)
    np.testing.assert_allclose(weight_DM.T, theirs_MF[:, 1:], atol=1e-4)


def test_votes_that_the_first_always_wins():
    votes = made(60, ties=0)
    won_V2 = np.where((votes.share_V == 1)[:, None], votes.pair_V2, votes.pair_V2[:, ::-1])
    turned = Votes("turned", votes.prompts, MODELS, won_V2, np.ones(60), votes.splits)
    nothing = np.zeros((60, 0), np.float32)
    np.testing.assert_allclose(
        fit_strengths(turned, nothing, 0.1, math.inf)[0], fit_strengths(votes, nothing, 0.1, math.inf)[0], atol=1e-4
    )


def test_the_report_where_the_prompt_matters_and_where_it_does_not(tmp_path):
    report = evaluate_votes(made(), draws=100)
    plain, per_prompt = report.rows
    assert per_prompt.over.low > 0
    assert per_prompt.gain.low > 0
    assert plain.over.value == plain.gain.value == 0
    assert report.verdict[0].startswith("A ranking per prompt foresees more")
    html = page(report)
    assert all(name in html for name in MODELS)
    found = json.loads(write_report(report, tmp_path)[0].read_text())
    assert [row["title"] for row in found["rows"]] == ["one ranking for all prompts", "a ranking per prompt"]
    noise = evaluate_votes(made(matters=False, seed=1), draws=100)
    assert noise.rows[1].over.low <= 0
    assert noise.ranking[0][0] == "generalist"


def test_agreement_by_hand():
    votes = made(300, ties=0.2)
    report = evaluate_votes(votes, draws=20)
    plain = Preference(context=math.inf).fit_votes(votes.split("train", "validation"))
    test = votes.split("test")
    agreed = []
    for (a, b), share in zip(test.pair_V2, test.share_V, strict=True):
        if share != 0.5:
            agreed.append((plain.strength_M[a] > plain.strength_M[b]) == (share == 1))
    assert report.rows[0].agreement.value == pytest.approx(np.mean(agreed))
    assert report.ties == len(test) - len(agreed)
    with pytest.raises(RosterError, match="decided votes of the test"):
        evaluate_votes(made(60), draws=20)


def test_a_log_becomes_votes_and_a_folder(tmp_path):
    rows = [
        {"prompt": "Hi", "model_a": "x", "model_b": "y", "winner": "model_a", "judge": "alice"},
        {"prompt": "hi ", "model_a": "y", "model_b": "x", "winner": "y", "split": "test"},
        {"messages": [{"role": "user", "content": "Hi"}], "model_a": "x", "model_b": "z", "winner": "tie (bothbad)"},
    ]
    log = tmp_path / "votes.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert is_of_votes(log)
    votes = read_votes(log, text="all-user")
    again = load_votes(save_votes(votes, tmp_path / "folder"))
    assert are_here(tmp_path / "folder")
    for each in (votes, again):
        assert each.models == ("x", "y", "z")
        assert each.pair_V2.tolist() == [[0, 1], [1, 0], [0, 2]]
        assert each.share_V.tolist() == [1.0, 1.0, 0.5]
        assert each.splits == ("test",) * 3  # one question, one side
        assert each.text == "all-user"
        assert each.notes == ("columns that are not read: judge",)
    left = again.without(("y",))
    assert (left.models, left.pair_V2.tolist()) == (("x", "z"), [[0, 1]])
    with pytest.raises(RosterError, match="no model 'w'"):
        again.without(("w",))
    for wrong, message in (
        ({"winner": "model_c"}, "line 1: winner 'model_c' is none of"),
        ({"model_b": "x"}, "line 1: model_a and model_b are both 'x'"),
    ):
        log.write_text(json.dumps(rows[0] | wrong) + "\n")
        with pytest.raises(RosterError, match=message):
            read_votes(log)
    log.write_text('{"prompt": "a", "model": "m"}\n')
    assert not is_of_votes(log)


def test_it_is_a_policy_like_others(tmp_path):
    votes = made()
    estimator = Preference().fit_votes(votes)
    estimates = estimator.estimate(votes.prompts[:5])
    strength_NM = estimator.strengths(votes.prompts[:5])
    beats = 1 / (1 + np.exp(strength_NM[0, 1:] - strength_NM[0, 0]))
    assert estimates.quality_NM[0, 0] == pytest.approx(beats.mean())
    policy = OfflinePolicy("votes", estimator, Weights(), text=votes.text)
    again = load_policy(policy.save(tmp_path / "policy"))
    asked = {"write a poem on 1 rhymes": "poet", "what is the sum of 1 numbers": "solver"}
    for prompt, model in asked.items():
        assert again.decide(prompt) == policy.decide(prompt)
        assert again.decide(prompt).model == model
    plain = OfflinePolicy("plain", Preference(context=math.inf).fit_votes(votes), Weights())
    assert len({plain.decide(prompt).model for prompt in asked}) == 1
    with pytest.raises(RosterError, match="preferences are learned from votes"):
        estimator.fit(type("Records", (), {"name": "r"})())
