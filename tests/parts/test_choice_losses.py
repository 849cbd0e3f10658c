"""Losses of the selections, by hand."""

import math

import pytest
import torch

from roster import Context, Route
from roster.balance import AdaptiveL1, Entropy, Importance, LoadBalancing, NoisyLoad, NullLoadBalancing, PredictedDuty
from roster.balance.noisy_load import chosen_chance
from roster.score import HiddenFrom, Hierarchical, Linear, Noisy
from roster.score.hidden_from import visible_experts
from roster.select import NullTopK, ReLU, TopK

PADDED = Context(1, 3, mask_BS=torch.tensor([[True, True, False]]))


def test_entropy_of_real_tokens():
    route = Route.from_gates(torch.zeros(3, 2))
    route.scores_TE = torch.tensor([[0.0, 0.0], [50.0, 0.0], [1.0, 2.0]])
    assert float(Entropy(2.0)(route, PADDED)) == pytest.approx(2.0 * math.log(2) / 2)


def test_adaptive_l1_by_hand_and_its_price():
    balance = AdaptiveL1(k=1, num_experts=2, start=0.5, rate=2.0)
    route = Route.from_gates(torch.tensor([[1.0, 3.0], [2.0, 0.0], [7.0, 7.0]])).keep(PADDED.mask_T)
    # f = (2 * 2 / 2, 2 * 1 / 2), mean gates (1.5, 1.5)
    assert float(balance(route, PADDED)) == pytest.approx(0.5 * (2 * 1.5 + 1 * 1.5))
    balance.advance(0.1)  # three pairs, two tokens: more than k
    assert float(balance.price) == 1.0
    few = Route.from_gates(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    balance(few, PADDED)
    balance.advance(0.2)
    assert float(balance.price) == 0.5
    balance(Route.from_gates(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])), PADDED)
    balance.advance(0.3)  # as many as wanted
    assert float(balance.price) == 0.5


def test_adaptive_l1_brings_the_number_of_experts_to_k():
    torch.manual_seed(0)
    score_TE = torch.nn.Parameter(torch.randn(200, 8) + 1.0)
    balance, select = AdaptiveL1(2, 8, start=1e-4), ReLU()
    optimizer = torch.optim.SGD([score_TE], lr=2.0)
    for step in range(300):
        loss = balance(select(score_TE, Context(1, 200)), Context(1, 200))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        balance.advance((step + 1) / 300)
    assert select(score_TE, Context(1, 200)).counts_E.sum() / 200 < 2.2


def test_null_experts_share_their_load():
    scores_TE = torch.tensor([[0.0, 0.0, 3.0, 0.0], [1.0, 0.0, 2.0, 0.0]])
    context = Context(1, 2)
    route = NullTopK(1, 2)(scores_TE, context)
    route.scores_TE = scores_TE
    prob_E = scores_TE.softmax(1).mean(0)
    wanted = 4 * (0.5 * prob_E[2] + 0.5 * prob_E[3])  # both null experts have f = (1 + 0) / 2
    assert float(NullLoadBalancing(2, 1.0)(route, context)) == pytest.approx(float(wanted))
    same = NullLoadBalancing(0, 1.0)(route, context)
    torch.testing.assert_close(same, LoadBalancing(1.0)(route, context))


def test_importance_is_the_squared_variation():
    route = Route.from_gates(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert float(Importance(1.0)(route, Context(1, 2))) == pytest.approx((0.5 / 1.5) ** 2)


def test_chance_of_being_chosen_agrees_with_draws():
    torch.manual_seed(0)
    clean_TE, std_TE = torch.randn(1, 4), torch.rand(1, 4) + 0.2
    noisy_TE = clean_TE + torch.randn(1, 4) * std_TE
    chance_TE = chosen_chance(noisy_TE, clean_TE, std_TE, k=2)
    for expert in range(4):
        draws_NE = noisy_TE.repeat(40_000, 1)
        draws_NE[:, expert] = clean_TE[0, expert] + torch.randn(40_000) * std_TE[0, expert]
        chosen = (draws_NE.topk(2, dim=1).indices == expert).any(1).float().mean()
        assert float(chosen) == pytest.approx(float(chance_TE[0, expert]), abs=0.01)


def test_noise_in_training_only_and_the_load_has_a_gradient():
    torch.manual_seed(0)
    score, context = Noisy(Linear(4, 3), 4, 3, "here"), Context(1, 20)
    x_TD = torch.randn(20, 4)
    scores_TE = score(x_TD, context)
    route = TopK(1)(scores_TE, context)
    route.scores_TE = scores_TE
    balance = NoisyLoad("here", 1, 1.0)
    balance(route, context).backward()
    assert score.inner.weight_ED.grad.abs().sum() > 0
    score.eval()
    torch.testing.assert_close(score(x_TD, context), score.inner(x_TD, context))
    assert balance.eval()(route, context) is None


def test_predicted_duty_is_the_cross_entropy():
    route = Route.from_gates(torch.tensor([[0.5], [0.0], [0.0]]))
    route.scores_TE = torch.tensor([[1.0], [2.0], [9.0]])
    wanted = -(math.log(1 / (1 + math.exp(-1))) + math.log(1 - 1 / (1 + math.exp(-2)))) / 2
    assert float(PredictedDuty(1.0)(route, PADDED)) == pytest.approx(wanted, rel=1e-5)


def test_hierarchical_scores_are_joint_log_probabilities():
    torch.manual_seed(0)
    score = Hierarchical(4, 6, 3, std=1.0)
    x_TD = torch.randn(5, 4)
    joint_TGe = score(x_TD, Context(1, 5)).exp().view(5, 3, 2)
    torch.testing.assert_close(joint_TGe.sum((1, 2)), torch.ones(5))
    torch.testing.assert_close(joint_TGe.sum(2), (x_TD @ score.group_GD.T).softmax(1))


def test_hidden_experts_get_no_token():
    torch.manual_seed(0)
    visible_VE = visible_experts([1, 1, 3, 4], 4, seed=1)
    assert visible_VE.sum(1).tolist() == [1, 1, 3, 4]
    ids_BS = torch.randint(0, 4, (2, 30))
    score = HiddenFrom(Linear(4, 4, std=1.0), visible_VE)
    context = Context(2, 30, input_ids_BS=ids_BS)
    route = TopK(1, "all")(score(torch.randn(60, 4), context), context)
    assert (route.chosen() <= visible_VE[ids_BS.flatten()]).all()
