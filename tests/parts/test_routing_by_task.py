"""Parts for routing by task, for skipping and for choosing by price: small cases by hand."""

import pytest
import torch

from roster.balance import Duty, ExpectedCost
from roster.context import Context
from roster.errors import RosterError
from roster.experts import Assorted, SwiGLU
from roster.route import Route
from roster.score import Offset, TaskEmbedding, TaskGate
from roster.select import Forced, GumbelTop1, HardTop1, Rank, Threshold

SCORES_TE = torch.tensor([[1.0, 3.0, 2.0], [0.5, -1.0, 0.0]])


def rows_of(*tasks, length=2):
    return Context(len(tasks), length, task_ids_B=torch.tensor(tasks))


def test_task_embedding_scores_every_token_of_a_row_alike():
    score = TaskEmbedding(torch.eye(3), 2)
    scores_TE = score(torch.randn(4, 5), rows_of(2, 0))
    torch.testing.assert_close(scores_TE, score.weight_EV.T[[2, 2, 0, 0]])


def test_grouped_tasks_share_a_vector_and_its_gradient():
    score = TaskEmbedding(torch.randn(2, 4), 3, groups=[0, 1, 0], hidden=5)
    scores_TE = score(torch.empty(3, 0), rows_of(0, 1, 2, length=1))
    torch.testing.assert_close(scores_TE[0], scores_TE[2])
    assert not torch.equal(scores_TE[0], scores_TE[1])
    hidden_H = (score.vectors_GV[1] @ score.hidden_HV.T).relu()
    torch.testing.assert_close(scores_TE[1], score.weight_EV @ hidden_H)


def test_task_gate_multiplies_each_row_by_its_own_gate():
    score, x_TD = TaskGate(2, 3, 4, std=1.0), torch.randn(4, 4)
    scores_TE = score(x_TD, rows_of(1, 0))
    wanted = torch.stack([score.weight_NED[task] @ x_D for task, x_D in zip([1, 1, 0, 0], x_TD, strict=True)])
    torch.testing.assert_close(scores_TE, wanted)


@pytest.mark.parametrize("score", [TaskEmbedding(torch.eye(2), 2), TaskGate(2, 2, 3)])
def test_missing_tasks_are_an_error(score):
    with pytest.raises(RosterError, match="task"):
        score(torch.zeros(2, 3), Context(1, 2))


def test_gumbel_chooses_the_best_at_evaluation_and_draws_per_row_in_training():
    select = GumbelTop1().eval()
    assert select(SCORES_TE, Context(1, 2)).expert_TK[:, 0].tolist() == [1, 0]
    select.train()
    scores_TE = torch.zeros(6, 3, requires_grad=True)
    seen = set()
    for _ in range(30):
        gate_TE = select(scores_TE, Context(2, 3)).dense()
        torch.testing.assert_close(gate_TE.sum(1), torch.ones(6))
        assert gate_TE[:3].argmax(1).unique().numel() == gate_TE[3:].argmax(1).unique().numel() == 1
        seen.add(int(gate_TE[0].argmax()))
    assert seen == {0, 1, 2}
    (gate_TE * torch.tensor([1.0, 0.0, 0.0])).sum().backward()
    assert (scores_TE.grad[:, 0] > 0).all()
    select.advance(1.0)
    drawn = select(SCORES_TE, Context(1, 2)).dense().argmax(1)
    assert drawn.tolist() == [1, 0], "no noise is left at the end of the training"


def test_threshold_opens_at_zero_and_trains_closed_gates():
    scores_TE = torch.tensor([[-0.1], [0.0], [2.0]], requires_grad=True)
    select = Threshold()
    for mode in (True, False):
        route = select.train(mode)(scores_TE, Context(1, 3))
        torch.testing.assert_close(route.dense(), torch.tensor([[0.0], [1.0], [1.0]]))
    assert route.counts_E.tolist() == [2]
    select.train()(scores_TE, Context(1, 3)).dense().sum().backward()
    prob = scores_TE.detach().sigmoid()
    torch.testing.assert_close(scores_TE.grad, prob * (1 - prob))


def test_duty_is_the_distance_of_the_hard_share_and_leaves_pads_out():
    gate_TE = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    route = Route.from_gates(gate_TE)
    assert float(Duty(0.5, 2.0)(route, Context(1, 4))) == pytest.approx(2 * 0.25)
    padded = Context(1, 4, mask_BS=torch.tensor([[True, True, False, False]]))
    assert float(Duty(0.5, 2.0)(route, padded)) == pytest.approx(0.0)
    with pytest.raises(RosterError, match=r"1\.5"):
        Duty(1.5)


def test_expected_cost_by_hand():
    route = Route.from_gates(torch.ones(2, 2))
    route.scores_TE = torch.tensor([[0.0, 0.0], [0.0, 100.0]])
    assert float(ExpectedCost((1.0, 3.0), 0.5)(route, Context(1, 2))) == pytest.approx(0.5 * (2.0 + 3.0) / 2)
    first_only = Context(1, 2, mask_BS=torch.tensor([[True, False]]))
    assert float(ExpectedCost((1.0, 3.0), 0.5)(route, first_only)) == pytest.approx(1.0)


def test_hard_top1_has_weight_one_and_the_gradient_of_the_probability():
    scores_TE = SCORES_TE.clone().requires_grad_()
    route = HardTop1()(scores_TE, Context(1, 2))
    assert route.expert_TK[:, 0].tolist() == [1, 0]
    torch.testing.assert_close(route.weight_TK, torch.ones(2, 1))
    route.weight_TK.sum().backward()
    prob_TE = scores_TE.detach().softmax(1)
    best_T1 = prob_TE.gather(1, route.expert_TK)
    chosen_TE = torch.nn.functional.one_hot(route.expert_TK[:, 0], 3)
    torch.testing.assert_close(scores_TE.grad, best_T1 * (chosen_TE - prob_TE))


def test_hard_top1_explores_first_and_only_in_training():
    select, scores_TE = HardTop1(explore=0.5), torch.tensor([[9.0, 0.0, 0.0]]).repeat(300, 1)
    assert select(scores_TE, Context(1, 300)).counts_E.min() > 50
    assert select.eval()(scores_TE, Context(1, 300)).counts_E.tolist() == [300, 0, 0]
    select.train().advance(0.5)
    assert select(scores_TE, Context(1, 300)).counts_E.tolist() == [300, 0, 0]


def test_rank_and_forced():
    assert Rank(2)(SCORES_TE, Context(1, 2)).expert_TK[:, 0].tolist() == [2, 2]
    assert Rank(9)(SCORES_TE, Context(1, 2)).expert_TK[:, 0].tolist() == [0, 1]
    assert Rank(1)(SCORES_TE, Context(1, 2), torch.tensor([9.0, 0, 0])).expert_TK[:, 0].tolist() == [0, 0]
    assert Forced(2)(SCORES_TE, Context(1, 2)).counts_E.tolist() == [0, 0, 2]
    with pytest.raises(RosterError, match="begin at 1"):
        Rank(0)


def test_offset_starts_where_it_is_told():
    scores_TE = Offset(lambda x, context: x * 0, 3, start=1.5)(torch.zeros(2, 3), Context(1, 2))
    torch.testing.assert_close(scores_TE, torch.full((2, 3), 1.5))


def test_assorted_experts_meet_their_own_rows():
    one, two = SwiGLU(1, 8, 4), SwiGLU(1, 8, 16)
    rows_RD, counts_E = torch.randn(7, 8), torch.tensor([2, 3, 1])
    out_RD = Assorted([one, None, two])(rows_RD, counts_E)
    torch.testing.assert_close(out_RD[:2], one(rows_RD[:2], torch.tensor([2])))
    assert not out_RD[2:5].any()
    assert not out_RD[6].any()
    torch.testing.assert_close(out_RD[5:6], two(rows_RD[5:6], torch.tensor([1])))
