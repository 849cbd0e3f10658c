"""Scores that learn more than one direction per expert, against cases worked out by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from roster import RosterError, Route
from roster.balance import Quantization
from roster.context import Context
from roster.score import (
    ActivationNorm,
    Attention,
    Codebook,
    Distilled,
    Hypernetwork,
    Hyperspherical,
    Linear,
    Recurrent,
    TokenTable,
)
from roster.score.projection import project
from roster.score.token_id import even_buckets

HERE = Context(1, 2)


def test_hyperspherical_is_a_cosine_over_a_temperature():
    score = Hyperspherical(3, 2, 2, temperature=0.5)
    score.reduce_PD.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    score.vectors_EP.data = torch.tensor([[2.0, 0.0], [3.0, 3.0]])
    got = score(torch.tensor([[4.0, 0, 9], [0, -7, 1]]), HERE)
    root = math.sqrt(0.5)
    torch.testing.assert_close(got, torch.tensor([[2.0, 2 * root], [0.0, -2 * root]]))
    score.temperature.data.fill_(-1.0)
    assert score(torch.randn(2, 3), HERE).abs().max() <= 1 / score.lowest + 1e-3
    with pytest.raises(RosterError, match="temperature"):
        Hyperspherical(3, 2, 2, temperature=0.0)


@pytest.mark.parametrize("experts", [4, 80])
def test_a_projections_gradients_are_those_of_a_linear_layer(experts):
    x_TD = torch.randn(8192, 64, requires_grad=True)
    vectors_ED, grad_TE = torch.randn(experts, 64, requires_grad=True), torch.randn(8192, experts)
    expected = torch.autograd.grad(F.linear(x_TD, vectors_ED), (x_TD, vectors_ED), grad_TE)
    got = torch.autograd.grad(project(x_TD, vectors_ED), (x_TD, vectors_ED), grad_TE)
    torch.testing.assert_close(got, expected)
    with torch.autocast("cpu", torch.bfloat16):
        product_TE = project(x_TD, vectors_ED)
    assert product_TE.dtype == torch.bfloat16
    product_TE.sum().backward()


def test_attention_by_hand():
    score = Attention(1, 2)
    score.query_ED.data = torch.tensor([[0.0], [1.0]])
    score.key_ED.data = torch.tensor([[0.0], [math.log(3.0)]])
    score.value_ED.data = torch.tensor([[2.0], [6.0]])
    # Expert 0 asks nothing and gets the mean of the values; expert 1 gets them at 1 : 3.
    torch.testing.assert_close(score(torch.ones(1, 1), Context(1, 1)), torch.tensor([[4.0, 5.0]]))


def test_recurrent_continues_the_state_of_the_layer_below():
    cell = nn.GRUCell(4, 4)
    below, above = (Recurrent(3, 2, cell, 4, index) for index in range(2))
    x_TD, context = torch.randn(2, 3), Context(1, 2)
    below(x_TD, context)
    got = above(x_TD, context)
    state = cell(x_TD @ below.reduce_HD.T)
    expected = cell(x_TD @ above.reduce_HD.T, state) @ above.weight_EH.T
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got, above(x_TD, Context(1, 2))), "without the layer below"


def test_hypernetwork_trains_its_embedding_only():
    score = Hypernetwork(5, 3, embedding=4, hidden=6)
    x_TD = torch.randn(2, 5)
    expected = x_TD @ (score.second_EDH @ F.relu(score.first_HZ @ score.embedding_Z)).T
    torch.testing.assert_close(score(x_TD, HERE), expected)
    assert [name for name, _ in score.named_parameters()] == ["embedding_Z"]
    spread = torch.stack([Hypernetwork(32, 8, std=0.02).weight_ED.std() for _ in range(20)]).mean()
    assert 0.01 < float(spread.detach()) < 0.04, "weights begin at about the asked size"


def test_codebook_and_its_loss():
    score = Codebook(2, 2, commitment=0.25)
    score.codes_ED.data = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    x_TD = torch.tensor([[1.0, 1.0], [4.0, 2.0], [9.0, 9.0]], requires_grad=True)
    context = Context(1, 3, mask_BS=torch.tensor([[True, True, False]]))
    scores_TE = score(x_TD, context)
    torch.testing.assert_close(scores_TE[:2], -torch.tensor([[1.0, 5.0], [10.0, 2.0]]))
    route = Route.slots(scores_TE.argmax(1, keepdim=True), torch.ones(3, 1), 2)
    route.scores_TE = scores_TE
    loss = Quantization(2.0)(route, context)
    torch.testing.assert_close(loss, torch.tensor(3.0))  # 2 * (1 + 2) / 2
    loss.backward()
    # d loss / d code = 2 * (code - x) / D / tokens * 2, and a quarter of its opposite reaches the token.
    torch.testing.assert_close(score.codes_ED.grad, torch.tensor([[-1.0, -1.0], [0.0, -2.0]]))
    torch.testing.assert_close(x_TD.grad, torch.tensor([[0.25, 0.25], [0.0, 0.5], [0.0, 0.0]]))


def test_token_table_and_even_buckets():
    table = TokenTable(torch.tensor([1, 0, 1]), 2)
    context = Context(1, 3, input_ids_BS=torch.tensor([[2, 1, 0]]))
    assert table(torch.zeros(3, 0), context).tolist() == [[0, 1], [1, 0], [0, 1]]
    with pytest.raises(RosterError, match="token ids"):
        table(torch.zeros(3, 0), Context(1, 3))
    with pytest.raises(RosterError, match="experts 0 to 1"):
        TokenTable(torch.tensor([2]), 2)
    counts_V = [100, 60, 40, 1, 1, 0, 0]
    expert_V = even_buckets(counts_V, 2)
    loads = [sum(c for c, e in zip(counts_V, expert_V.tolist(), strict=True) if e == expert) for expert in (0, 1)]
    assert sorted(loads) == [101, 101]
    assert even_buckets([1] * 10, 5).bincount().tolist() == [2] * 5


def test_distilled_learns_and_then_decides():
    torch.manual_seed(0)
    score = Distilled(Linear(4, 3), vocab_size=5, num_experts=3, hidden=4, until=0.5).train()
    ids_BS = torch.tensor([[1, 2, 3]])
    x_TD, context = torch.randn(3, 4), Context(1, 3, input_ids_BS=ids_BS)
    first = score(x_TD, context)
    torch.testing.assert_close(first, score.inner(x_TD, context))
    light_TE = score.table_VP[ids_BS[0]] @ score.weight_EP.T
    torch.testing.assert_close(context.losses["distilled"], 0.01 * F.cross_entropy(light_TE, first.argmax(1)))
    score.advance(0.4)
    assert not score.frozen
    score.advance(0.5)
    later = Context(1, 3, input_ids_BS=ids_BS)
    second = score(x_TD, later)
    assert not later.losses
    assert not score.table_VP.requires_grad
    assert torch.equal(second.argmax(1), light_TE.argmax(1))
    assert int(second.isfinite().sum()) == 3


def test_activation_norm_hands_its_projection_to_the_experts():
    from roster.experts import FactoredSwiGLU

    score = ActivationNorm(torch.randn(2, 4, 8), trains=True)
    experts = FactoredSwiGLU(score.projection_ERD, 12)
    assert experts.projection_EPD is score.projection_ERD
    rows_RD = torch.randn(5, 8)
    got = experts(rows_RD, torch.tensor([3, 2]))
    for rows, e in ((slice(0, 3), 0), (slice(3, 5), 1)):
        thin = rows_RD[rows] @ score.projection_ERD[e].T
        expected = (F.silu(thin @ experts.gate_EPF[e]) * (rows_RD[rows] @ experts.up_EDF[e])) @ experts.down_EFD[e]
        torch.testing.assert_close(got[rows], expected)
