"""Capacity: who loses a place, where it goes, and who gets to know of it; small cases by hand."""

import math

import pytest
import torch

import roster.analyze.trace
from roster import RosterError, Route, Router
from roster.context import Context
from roster.score import Linear
from roster.select import Capacity, Soft, TopK
from roster.select.capacity import places

# Four tokens want expert 0; with three experts and a factor of 1 it has ceil(4 / 3) = 2 places.
SCORES_TE = torch.tensor([[0.1, 0.0, -9.0], [0.4, 0.0, -9.0], [0.3, -9.0, 0.0], [0.2, 0.1, -9.0]])
HERE = Context(1, 4)


def chosen(overflow, **options):
    return Capacity(TopK(1, "all"), 1.0, overflow, **options).eval()(SCORES_TE, HERE)


def test_places_are_by_priority_and_then_by_order():
    expert_R = torch.tensor([0, 1, 0, 0, 2])
    assert places(expert_R, torch.zeros(5), 2).tolist() == [0, 0, 1, 2, 0]
    assert places(expert_R, torch.tensor([1.0, 0.0, 3.0, 2.0, 9.0]), 2).tolist() == [2, 0, 0, 1, 0]


def test_order_keeps_the_first_tokens():
    route = chosen("order")
    assert route.chosen()[:, 0].tolist() == [True, True, False, False]
    assert route.dropped_E.tolist() == [2, 0, 0]
    torch.testing.assert_close(route.dense()[:2, 0], SCORES_TE.softmax(1)[:2, 0])
    assert not route.dense()[2:].any()


def test_score_keeps_the_highest_weights():
    route = chosen("score")
    by_weight_T = SCORES_TE.softmax(1)[:, 0].argsort(descending=True)
    assert route.chosen()[:, 0].nonzero()[:, 0].tolist() == sorted(by_weight_T[:2].tolist())
    assert route.dropped_E.tolist() == [2, 0, 0]


def test_reroute_moves_to_the_next_best_with_room():
    route = chosen("reroute")
    assert route.dropped_E.tolist() == [0, 0, 0]
    assert route.counts_E.tolist() == [2, 2, 0], "tokens 0 and 3 lost their places, and both rank expert 1 second"
    torch.testing.assert_close(route.dense()[[0, 3], 1], SCORES_TE.softmax(1)[[0, 3], 1])


def test_reroute_asks_on_when_the_second_best_is_full_and_never_doubles():
    scores_TE = torch.tensor([[3.0, 2.0, 1.0]]).repeat(6, 1) + torch.arange(6)[:, None] * 0.01
    route = Capacity(TopK(1, "all"), 1.0, "reroute")(scores_TE, Context(1, 6))
    assert route.counts_E.tolist() == [2, 2, 2]
    twice = Capacity(TopK(2), 0.75, "reroute")(scores_TE, Context(1, 6))
    assert twice.chosen().sum() == twice.counts_E.sum() == 9, "12 pairs, three places at each expert"
    assert twice.dropped_E.sum() == 3


def test_random_is_the_same_at_every_evaluation_and_blind_to_padding():
    once, again = chosen("random"), chosen("random")
    assert torch.equal(once.chosen(), again.chosen())
    padded_TE = torch.cat([torch.full((2, 3), 5.0), SCORES_TE])
    mask_BS = torch.tensor([[False, False, True, True, True, True]])
    select = Capacity(TopK(1, "all"), 1.0, "random").eval()
    assert torch.equal(select(padded_TE, Context(1, 6, mask_BS=mask_BS)).chosen()[2:], once.chosen())
    others = [chosen("random", seed=seed).chosen() for seed in range(8)]
    assert any(not torch.equal(each, once.chosen()) for each in others)


def test_pads_take_no_place():
    mask_BS = torch.tensor([[False, True, True, True]])
    route = Capacity(TopK(1), 1.0)(SCORES_TE, Context(1, 4, mask_BS=mask_BS))
    assert route.chosen()[:, 0].tolist() == [False, True, False, False], "ceil(3 / 3) = 1 place"
    assert route.dropped_E.tolist() == [2, 0, 0]


def test_reroute_under_the_compiler_looks_at_all_pairs_and_finds_the_same():
    select = Capacity(TopK(2), 0.7, "reroute").eval()
    static = torch.compile(select, backend="eager", fullgraph=True)
    for seed in range(5):
        torch.manual_seed(seed)
        scores_TE, context = torch.randn(40, 6) + torch.randn(6), Context(1, 40)
        found, listed = static(scores_TE, context), select(scores_TE, context)
        assert torch.equal(found.expert_R, listed.expert_R)
        torch.testing.assert_close(found.weight_R, listed.weight_R)


def test_a_wide_capacity_changes_nothing_and_gradients_flow():
    scores_TE = torch.randn(9, 4, requires_grad=True)
    plain = TopK(2)(scores_TE, Context(1, 9))
    for overflow in ("order", "score", "random", "reroute"):
        route = Capacity(TopK(2), 4.0, overflow)(scores_TE, Context(1, 9))
        torch.testing.assert_close(route.dense(), plain.dense())
        tight = Capacity(TopK(2), 0.5, overflow)(scores_TE, Context(1, 9))
        assert int(tight.counts_E.max()) <= math.ceil(0.5 * 18 / 4)
        (gradient,) = torch.autograd.grad(tight.dense().square().sum(), scores_TE)
        assert gradient.isfinite().all()
        assert gradient.any()


def test_when_it_holds():
    for when, in_training, at_evaluation in (("always", 2, 2), ("training", 2, 4), ("evaluation", 4, 2)):
        select = Capacity(TopK(1), 1.0, when=when)
        assert int(select.train()(SCORES_TE, HERE).counts_E[0]) == in_training
        assert int(select.eval()(SCORES_TE, HERE).counts_E[0]) == at_evaluation


def test_the_bias_steers_through_a_capacity():
    route = Capacity(TopK(1), 9.0)(SCORES_TE, HERE, bias_E=torch.tensor([0.0, 0.0, 99.0]))
    assert route.counts_E.tolist() == [0, 0, 4]


def test_a_route_with_dropped_pairs_survives_masking_and_flattening():
    route = chosen("order").keep(torch.tensor([True, False, True, True]))
    assert route.counts_E.tolist() == [1, 0, 0]
    leaves, spec = torch.utils._pytree.tree_flatten(route)
    again = torch.utils._pytree.tree_unflatten(leaves, spec)
    assert again.dropped_E.tolist() == [2, 0, 0]
    assert isinstance(again, Route)


def test_bad_values():
    for factor in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(RosterError, match="drops every token"):
            Capacity(TopK(1), factor)
    with pytest.raises(RosterError, match="reroute"):
        Capacity(TopK(1), 1.0, "rerout")
    with pytest.raises(RosterError, match="training"):
        Capacity(TopK(1), 1.0, when="trainin")
    with pytest.raises(RosterError, match="soft routes"):
        Capacity(Soft(), 1.0)(SCORES_TE, HERE)


def test_router_hands_dropped_pairs_to_the_trace():
    router = Router(Linear(2, 3), Capacity(TopK(1), 1.0))
    trace = roster.analyze.trace.Trace(["a", "b", "c"])
    trace.begin()
    router.score.weight_ED.data = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    router(torch.ones(6, 2), Context(1, 6, recorder=trace))
    assert trace.dropped()["router"].tolist() == [4, 0, 0]
    assert trace.to_json()["sites"]["router"]["dropped"] == [4, 0, 0]
