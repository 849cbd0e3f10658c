"""A balance bias helps to choose and never weighs: every selection that reads one, however many it chooses."""

import pytest
import torch

from roster import select
from roster.context import Context
from roster.select.allotted import ATTENTION

T, E = 7, 5
SELECTIONS = {
    "TopK(2)": lambda: select.TopK(2),
    "TopK(3, all, temperature)": lambda: select.TopK(3, "all", temperature=0.5),
    "TopP(0.9)": lambda: select.TopP(0.9),
    "TopP(0.9) as they are": lambda: select.TopP(0.9, renormalize=False),
    "GatedTopK(2)": lambda: select.GatedTopK(2),
    "GatedTopK(3, normalised)": lambda: select.GatedTopK(3, "softmax", normalize=True),
    "GroupedTopK(2)": lambda: select.GroupedTopK(2),
    "NullTopK(3)": lambda: select.NullTopK(3, 2),
    "GrowingTopK(2)": lambda: select.GrowingTopK(2, 3),
    "Allotted(2)": lambda: select.Allotted(2),
    "Rank(2)": lambda: select.Rank(2),
    "Capacity(TopK(2))": lambda: select.Capacity(select.TopK(2), 9.0),
}


def here():
    context = Context(1, T)
    context.memory[ATTENTION] = torch.full((1, 1, T, T), 1 / T)
    return context


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_bias_that_changes_no_choice_changes_no_weight(name):
    # Half a unit and more between any two scores of a token, and a bias of less than a hundredth.
    scores_TE = torch.rand(T, E).argsort(1) * 0.5 + torch.rand(T, 1)
    chosen = SELECTIONS[name]()
    plain = chosen(scores_TE, here())
    biased = chosen(scores_TE, here(), torch.rand(E) * 0.005)
    assert torch.equal(biased.chosen(), plain.chosen())
    assert torch.equal(biased.dense(), plain.dense())


@pytest.mark.parametrize("name", sorted(set(SELECTIONS) - {"NullTopK(3)", "Rank(2)"}))
def test_who_comes_in_by_a_bias_weighs_what_its_score_says(name):
    """Two experts swap their places by it; each still weighs more than the other where its own score is larger."""
    scores_TE = torch.tensor([[1.2, 1.0, 0.9, -6.0, -7.0]]).repeat(T, 1)
    bias_E = torch.tensor([0.0, 0.0, 0.4, 0.0, 0.0])
    gate_TE = SELECTIONS[name]()(scores_TE, here(), bias_E).dense()
    assert (gate_TE[:, 2] > 0).all()
    assert (gate_TE[:, 0] > gate_TE[:, 2]).all()


def test_the_weights_of_top_k_are_those_of_the_scores_alone():
    scores_TE, bias_E = torch.randn(T, E), torch.randn(E) * 2
    chosen_TE = torch.zeros(T, E).scatter(1, (scores_TE + bias_E).topk(2).indices, 1.0).bool()
    expected = scores_TE.masked_fill(~chosen_TE, -torch.inf).softmax(1)
    torch.testing.assert_close(select.TopK(2)(scores_TE, here(), bias_E).dense(), expected)
    torch.testing.assert_close(
        select.TopK(2, "all")(scores_TE, here(), bias_E).dense(), scores_TE.softmax(1) * chosen_TE
    )


def test_the_weights_of_top_p_are_those_of_the_scores_alone():
    scores_TE = torch.tensor([[0.5, 0.3, 0.2]]).log()
    # With the bias the third is the likeliest, 0.2 * 9 / (0.5 + 0.3 + 1.8), and alone has less than 0.8.
    route = select.TopP(0.8)(scores_TE, Context(1, 1), torch.tensor([0.0, 0.0, 9.0]).log().clamp_min(0))
    torch.testing.assert_close(route.dense(), torch.tensor([[0.5 / 0.7, 0.0, 0.2 / 0.7]]))


def test_the_bias_of_ranks_moves_against_their_load():
    ranks = select.TopRanks(2, [2, 1], rate=0.5)  # three ranks; the second expert has no second one
    scores_TE = torch.tensor([[5.0, 4.0, -5.0, 9.0]] * 4)
    ranks.train()(scores_TE, Context(1, 4, mask_BS=torch.tensor([[True, True, True, False]])))
    assert ranks.load_ER.tolist() == [[3, 3], [0, 0]]
    ranks.advance(0.5)
    assert ranks.bias_ER.tolist() == [[-0.5, -0.5], [0.5, 0.0]]
    assert not ranks.load_ER.any()


def test_the_bias_of_ranks_decides_who_serves_and_weighs():
    ranks = select.TopRanks(1, [2, 1], rate=0.1)
    ranks.bias_ER.copy_(torch.tensor([[0.0, 0.0], [0.5, 9.0]]))  # the last of them is no rank
    route = ranks(torch.tensor([[1.0, -1.0, 0.5, 9.0]]), Context(1, 1))
    assert route.chosen().tolist() == [[False, True]]


def test_ranks_are_left_alone_where_nobody_asks_for_balance():
    ranks = select.TopRanks(1, [2, 1]).train()
    ranks(torch.randn(5, 4), Context(1, 5))
    ranks.advance(0.5)
    assert not ranks.bias_ER.any()
    assert not ranks.load_ER.any()
