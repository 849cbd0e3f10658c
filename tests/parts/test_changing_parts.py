"""Parts that change while a model trains: what they do before, meanwhile and after."""

import pytest
import torch

from roster import RosterError
from roster.context import Context
from roster.experts import Spawned, SwiGLU
from roster.moe.layout import Place
from roster.recipes import find
from roster.select import All, DenseToSparse, ExpertDropout, GrowingTopK

SCORES_TE = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.1, 0.2, 0.3]])
HERE = Context(1, 2)


def test_dense_to_sparse_by_hand():
    select = DenseToSparse(threshold=0.2, start=100.0, end=0.1).eval()
    route = select(SCORES_TE, HERE)
    assert route.chosen().all()
    torch.testing.assert_close(route.dense(), (SCORES_TE / 100).softmax(1))
    select.advance(1.0)
    assert float(select.temperature) == pytest.approx(0.1)
    prob_TE = (SCORES_TE / 0.1).softmax(1)
    assert torch.equal(select(SCORES_TE, HERE).chosen(), prob_TE >= 0.2)
    select.threshold = 0.99
    assert select(SCORES_TE, HERE).counts_E.tolist() == [1, 0, 0, 1], "the best always serves"


def test_dense_to_sparse_may_leave_one_at_evaluation():
    select = DenseToSparse(threshold=0.001, start=2.0, end=1.0, one_after=True)
    assert select(SCORES_TE, HERE).chosen().all(), "in training the threshold decides"
    route = select.eval()(SCORES_TE, HERE)
    assert route.counts_E.tolist() == [1, 0, 0, 1]
    torch.testing.assert_close(route.dense().amax(1), (SCORES_TE / 2).softmax(1).amax(1))


def test_a_row_does_without_some_experts_in_training_only():
    torch.manual_seed(0)
    select, rows = ExpertDropout(All(), 0.5), 2000
    scores_TE = torch.randn(rows, 1, 4).expand(rows, 3, 4).reshape(-1, 4)
    gate_BSE = select(scores_TE, Context(rows, 3)).dense().view(rows, 3, 4)
    assert torch.equal(gate_BSE, gate_BSE[:, :1].expand_as(gate_BSE)), "the same for all tokens of a row"
    torch.testing.assert_close(gate_BSE.sum(2), torch.ones(rows, 3))
    lost = float((gate_BSE == 0).float().mean())
    assert lost == pytest.approx(0.5 - 0.5**4, abs=0.02), "half, but where all were lost nobody is"
    torch.testing.assert_close(select.eval()(scores_TE, Context(rows, 3)).dense(), scores_TE.softmax(1))
    with pytest.raises(RosterError, match="chance"):
        ExpertDropout(All(), 1.0)


def test_dense_to_sparse_waits_and_then_falls_evenly():
    select = DenseToSparse(start=2.0, end=1.0, begin=0.5)
    temperatures = []
    scores_TE = SCORES_TE.clone().requires_grad_()
    gate_TE = select(scores_TE, HERE).dense()
    assert gate_TE.tolist() == [[0.25] * 4] * 2, "until it begins to fall all serve alike"
    (gate_TE * torch.randn(2, 4)).sum().backward()
    assert not scores_TE.grad.any()
    for progress in (0.25, 0.5, 0.75, 1.0):
        select.advance(progress)
        temperatures.append(float(select.temperature))
    assert temperatures == pytest.approx([torch.inf, 2.0, 1.5, 1.0])
    with pytest.raises(RosterError, match="threshold"):
        DenseToSparse(threshold=1.0)


def test_growing_top_k():
    select = GrowingTopK(1, 4)
    assert select(SCORES_TE, HERE).counts_E.tolist() == [1, 0, 0, 1]
    select.advance(1 / 3)
    assert int(select.k_now) == 2
    gate_TE = select(SCORES_TE, HERE).dense()
    torch.testing.assert_close(gate_TE[0, :2], SCORES_TE[0, :2].softmax(0))
    assert gate_TE[0, 2:].tolist() == [0.0, 0.0]
    select.advance(1.0)
    torch.testing.assert_close(select(SCORES_TE, HERE).dense(), SCORES_TE.softmax(1))
    with pytest.raises(RosterError, match="start <= end"):
        GrowingTopK(3, 2)


def test_experts_are_spawned_once_from_one():
    experts = Spawned(SwiGLU(3, 4, 4), at=0.5, drop=0.25)
    rows_RD, counts_E = torch.randn(6, 4), torch.tensor([1, 2, 3])
    alone = experts.inner(rows_RD, torch.tensor([6, 0, 0]))
    torch.testing.assert_close(experts(rows_RD, counts_E), alone)
    seed = experts.inner.gate_EDF[0].clone()
    experts.advance(0.4)
    assert not experts.spawned
    experts.advance(0.5)
    copies = experts.inner.gate_EDF
    for copy in copies:
        kept = copy != 0
        assert torch.equal(copy[kept], seed[kept])
        assert not kept.all()
    assert not torch.equal(copies[0], copies[1])
    torch.testing.assert_close(experts(rows_RD, counts_E), experts.inner(rows_RD, counts_E))
    later = copies.detach().clone()
    experts.advance(0.6)
    assert torch.equal(copies, later), "copies are made once"
    with pytest.raises(RosterError, match="at="):
        Spawned(SwiGLU(2, 4, 4), at=1.5, drop=0.0)


def test_smoe_dropout_grows_from_half_of_the_experts_under_a_gate_with_a_frozen_bias():
    place = Place("mlp", 0, 1, 16, 12, lambda count, each: SwiGLU(count, 16, each))
    made = find("smoe-dropout")({"num_experts": 6}).block(place)
    score = made.router.score
    assert (made.router.select.start, made.router.select.end) == (3, 6)
    assert score.offset_E.abs().min() > 0
    assert all(not p.requires_grad and p.abs().max() <= 16**-0.5 for p in score.parameters())
    torch.testing.assert_close(score.inner.weight_ED.std(), torch.tensor((3 * 16) ** -0.5), atol=0.03, rtol=0)
