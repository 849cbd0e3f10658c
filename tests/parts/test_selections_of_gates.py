"""Gated top-k, cluster dropout, unit weights, entmax and native experts; small cases by hand."""

import pytest
import torch
from scipy.optimize import minimize

from roster import RosterError
from roster.context import Context
from roster.select import All, ClusterDropout, Entmax, GatedTopK, Native, Soft, TopK, Unit
from roster.select.entmax import entmax

HERE = Context(1, 3)


def test_gated_top_k_weights():
    scores_TE = torch.tensor([[0.0, 3.0, 1.0]])
    gate = GatedTopK(2)(scores_TE, Context(1, 1)).dense()
    torch.testing.assert_close(gate, scores_TE.sigmoid() * torch.tensor([0.0, 1.0, 1.0]))
    assert float(GatedTopK(2, "softmax", normalize=True)(scores_TE, Context(1, 1)).dense().sum()) == pytest.approx(1)
    for bad in (lambda: GatedTopK(0), lambda: GatedTopK(1, "sigmoi")):
        with pytest.raises(RosterError):
            bad()


def test_cluster_dropout_takes_a_share_of_every_cluster_in_training_only():
    select = ClusterDropout(All("sigmoid"), [0, 0, 0, 0, 1, 1], 0.5).train()
    off_TE = select(torch.zeros(50, 6), Context(1, 50)).dense() == 0
    assert (off_TE[:, :4].sum(1) == 2).all()
    assert (off_TE[:, 4:].sum(1) == 1).all()
    assert off_TE.any(0).all(), "every expert is off duty now and then"
    assert not (select.eval()(torch.zeros(3, 6), HERE).dense() == 0).any()
    with pytest.raises(RosterError, match="below 1"):
        ClusterDropout(All(), [0], 1.0)


def test_unit_weights_are_one_and_pass_the_gradient_on():
    scores_TE = torch.randn(3, 4, requires_grad=True)
    inner, straight = TopK(2, "all"), Unit(TopK(2, "all"))
    route = straight(scores_TE, HERE)
    torch.testing.assert_close(route.dense(), inner(scores_TE, HERE).chosen().float())
    direction_TE = torch.randn(3, 4)
    got = torch.autograd.grad((route.dense() * direction_TE).sum(), scores_TE)[0]
    expected = torch.autograd.grad((inner(scores_TE, HERE).dense() * direction_TE).sum(), scores_TE)[0]
    torch.testing.assert_close(got, expected)
    assert not Unit(TopK(1), straight_through=False)(scores_TE, HERE).weight_R.requires_grad
    with pytest.raises(RosterError, match="soft routes"):
        Unit(Soft())(scores_TE, HERE)


def test_entmax_is_the_maximiser_that_defines_it():
    """argmax over the simplex of p . s + H(p), H(p) = sum (p - p^1.5) / 0.75: here found by SciPy."""
    for seed in range(3):
        score_E = torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2

        def negative(p, s):
            return -(p @ s) - ((p - abs(p) ** 1.5) / 0.75).sum()

        found = minimize(
            negative,
            [0.25] * 4,
            args=(score_E.numpy(),),
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-12},
        )
        torch.testing.assert_close(entmax(score_E[None])[0], torch.tensor(found.x), atol=1e-4, rtol=0)


def test_entmax_gradient_and_sparsity():
    scores_TE = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entmax, scores_TE)
    route = Entmax()(torch.tensor([[9.0, 0.0, 0.0]]), Context(1, 1))
    assert route.dense().tolist() == [[1.0, 0.0, 0.0]]
    assert route.counts_E.tolist() == [1, 0, 0]


def test_native_adds_the_tasks_own_experts():
    select = Native(All(), [0, 1, -1], 2)
    context = Context(2, 1, task_ids_B=torch.tensor([1, 0]))
    gate = select(torch.zeros(2, 3), context).dense()
    third = 1 / 3
    torch.testing.assert_close(gate, torch.tensor([[third, 1 + third, third], [1 + third, third, third]]))
    with pytest.raises(RosterError, match="needs an expert of its own"):
        Native(All(), [0, 0], 2)
    with pytest.raises(RosterError, match="task"):
        select(torch.zeros(2, 3), Context(2, 1))
