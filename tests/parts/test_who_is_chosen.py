"""Selections of experts and tokens, on cases small enough to work out by hand."""

import pytest
import torch

from roster import Context, RosterError
from roster.select import (
    Allotted,
    BestGroup,
    Broadcast,
    ExpertChoice,
    Grouped,
    NullTopK,
    Soft,
    TopK,
    TopTokens,
)
from roster.select.allotted import ATTENTION, importance


def rows(scores_TE):
    return Context(1, len(scores_TE))


def test_every_expert_takes_exactly_its_number_of_tokens():
    torch.manual_seed(0)
    scores_TE = torch.randn(12, 4)
    route = ExpertChoice(2.0)(scores_TE, Context(2, 6))
    assert route.counts_E.tolist() == [6] * 4
    gate_TE = scores_TE.softmax(1)
    for expert in range(4):
        taken_T = route.chosen()[:, expert]
        assert gate_TE[taken_T, expert].min() > gate_TE[~taken_T, expert].max()
    torch.testing.assert_close(route.dense(), gate_TE * route.chosen())
    assert len(set(route.chosen().sum(1).tolist())) > 1  # tokens have different numbers of experts


def test_expert_choice_counts_real_tokens_only():
    torch.manual_seed(0)
    mask_BS = torch.tensor([[True, True, True, False], [True, True, True, True]])
    context = Context(2, 4, mask_BS=mask_BS)
    scores_TE = torch.randn(8, 2)
    route = ExpertChoice(1.0)(scores_TE, context)
    assert route.counts_E.tolist() == [4, 4]  # 7 / 2, rounded up
    assert not route.chosen()[3].any()
    by_row = ExpertChoice(1.0, "row")(scores_TE, context).chosen().view(2, 4, 2).sum(1)
    assert by_row.tolist() == [[2, 2], [2, 2]]
    with pytest.raises(RosterError, match="unknown pool"):
        ExpertChoice(1.0, "rows")


def test_one_expert_of_each_group():
    scores_TE = torch.tensor([[9.0, 8.0, 1.0, 0.0], [0.0, 1.0, 0.0, 3.0]])
    route = Grouped(TopK(1, "all"), 2)(scores_TE, rows(scores_TE))
    assert route.chosen().tolist() == [[True, False, True, False], [False, True, False, True]]
    sigmoid = torch.tensor([[1.0, 1.0], [1.0, 3.0]]).sigmoid()
    torch.testing.assert_close(route.dense()[route.chosen()], sigmoid.flatten())
    steered = Grouped(TopK(1, "all"), 2)(scores_TE, rows(scores_TE), torch.tensor([0.0, 5.0, 0.0, 5.0]))
    assert steered.chosen()[0].tolist() == [False, True, False, True]
    with pytest.raises(RosterError, match="4 experts do not divide into 3"):
        Grouped(TopK(1), 3)(scores_TE, rows(scores_TE))
    with pytest.raises(RosterError, match="soft routes"):
        Grouped(Soft(1), 2)(scores_TE, rows(scores_TE))


def test_groups_join_routes_that_are_no_slots():
    torch.manual_seed(0)
    scores_TE = torch.randn(6, 4)
    context = Context(1, 6, mask_BS=torch.tensor([[True] * 5 + [False]]))
    route = Grouped(ExpertChoice(1.0), 2)(scores_TE, context)
    assert route.counts_E.tolist() == [3, 3, 3, 3]
    assert not route.chosen()[5].any()


def test_all_experts_of_a_token_are_in_one_group():
    torch.manual_seed(0)
    scores_TE = torch.randn(50, 12)
    route = BestGroup(3, 2)(scores_TE, rows(scores_TE))
    groups_TG = route.chosen().view(50, 3, 4).any(2)
    assert (groups_TG.sum(1) == 1).all()
    assert (route.chosen().sum(1) == 2).all()
    prob_TG = scores_TE.softmax(1).view(50, 3, 4).sum(2)
    assert torch.equal(groups_TG.long().argmax(1), prob_TG.argmax(1))
    torch.testing.assert_close(route.dense(), scores_TE.softmax(1) * route.chosen())
    with pytest.raises(RosterError, match="do not make groups of 2 or more"):
        BestGroup(12, 2)(scores_TE, rows(scores_TE))


def test_unsure_tokens_go_to_everybody_in_training_only():
    scores_TE = torch.tensor([[0.0, 0.1, 0.0, 0.0], [9.0, 0.0, 1.0, 0.0]])
    select = Broadcast(TopK(2), above=0.9)
    route = select(scores_TE, rows(scores_TE))
    assert route.chosen().sum(1).tolist() == [4, 2]
    torch.testing.assert_close(route.dense()[0], scores_TE[0].softmax(0))
    plain = TopK(2)(scores_TE, rows(scores_TE)).dense()
    torch.testing.assert_close(route.dense()[1], plain[1])
    torch.testing.assert_close(select.eval()(scores_TE, rows(scores_TE)).dense(), plain)
    later = Broadcast(TopK(2), above=0.9, begin=0.5)
    assert later(scores_TE, rows(scores_TE)).chosen().sum(1).tolist() == [2, 2]
    later.advance(0.5)
    assert later(scores_TE, rows(scores_TE)).chosen().sum(1).tolist() == [4, 2]


def test_null_experts_weigh_nothing_and_are_counted():
    scores_TE = torch.tensor([[3.0, 0.0, 2.0, 1.0], [0.0, 0.0, 5.0, 5.0], [2.0, 1.0, 0.0, 0.0]])
    route = NullTopK(2, null=2)(scores_TE, rows(scores_TE))
    assert route.counts_E.tolist() == [2, 1, 2, 1]
    second = torch.tensor([2.0, 1.0]).softmax(0).tolist()
    torch.testing.assert_close(
        route.dense(), torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0] * 4, [second[0], second[1], 0.0, 0.0]])
    )
    with pytest.raises(RosterError, match="none is left"):
        NullTopK(1, null=4)(scores_TE, rows(scores_TE))


def test_the_best_tokens_of_a_row_in_training_and_open_gates_at_evaluation():
    scores_T1 = torch.tensor([[3.0], [-1.0], [2.0], [9.0], [-5.0], [-4.0], [-3.0], [-2.0]])
    context = Context(2, 4, mask_BS=torch.tensor([[True, True, True, False], [True] * 4]))
    select = TopTokens(0.5)
    assert (
        select(scores_T1, context).chosen().flatten().tolist() == [True, False, True, False] + [False] * 2 + [True] * 2
    )
    open_T1 = select.eval()(scores_T1, context).keep(context.mask_T).chosen()
    assert open_T1.flatten().tolist() == [True, False, True] + [False] * 5


def attention(weights, mask=None):
    weight_BHSL = torch.tensor(weights)[None, None]
    context = Context(1, weight_BHSL.shape[2], mask_BS=mask, memory={ATTENTION: weight_BHSL})
    return context


def test_experts_in_proportion_to_the_attention_received():
    even = attention([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(importance(even), torch.ones(1, 3))
    # Query 2 gives token 1 everything that it sees: (1 + 3) / 2 against (1 + 1) / 2 for token 0, whom it does not see.
    uneven = attention([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.9, 0.1]])
    torch.testing.assert_close(importance(uneven), torch.tensor([[1.0, (1 + 1.8) / 2, 0.2]]))
    scores_TE = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 3)
    route = Allotted(4)(scores_TE, uneven)
    assert route.chosen().sum(1).tolist() == [3, 4, 1]
    torch.testing.assert_close(route.dense().sum(1), torch.ones(3))
    with pytest.raises(RosterError, match="attention weights"):
        Allotted(2)(scores_TE, Context(1, 3))


def test_padding_gives_no_attention():
    mask_BS = torch.tensor([[False, True, True]])
    padded = attention([[1 / 3, 1 / 3, 1 / 3], [0.0, 1.0, 0.0], [0.0, 0.25, 0.75]], mask_BS)
    alone = attention([[1.0, 0.0], [0.25, 0.75]])
    torch.testing.assert_close(importance(padded)[:, 1:], importance(alone))
