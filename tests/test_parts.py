"""Scores, selections and balance losses against cases worked out by hand or by another package."""

import math

import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from roster import RosterError, Route, Router
from roster.balance import LoadBalancing, LossFreeBias, ZLoss
from roster.context import DECISION, Context
from roster.routed.deciding import on_duty
from roster.score import ActivationNorm, Cosine, Decided, Linear, PromptPooled, Prototype, Random, TaskTable
from roster.score.prototype import top_input_direction
from roster.select import All, Given, Present, RelaxedBernoulli, ReLU, TopK, TopP

HERE = Context(1, 3)


def test_linear_cosine_prototype_and_norm():
    x_TD = torch.tensor([[3.0, 4.0], [0.0, -2.0], [1.0, 0.0]])
    linear = Linear(2, 2)
    linear.weight_ED.data = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert torch.equal(linear(x_TD, HERE), torch.tensor([[3.0, 7.0], [0.0, -2.0], [1.0, 1.0]]))
    cosine = Cosine(torch.tensor([[0.0, 5.0]]), scale=10.0)
    torch.testing.assert_close(cosine(x_TD, HERE), torch.tensor([[8.0], [-10.0], [0.0]]))
    prototype = Prototype(torch.tensor([[0.0, 1.0]]))
    assert torch.equal(prototype(x_TD, HERE), torch.tensor([[4.0], [2.0], [0.0]]))
    norm = ActivationNorm(torch.eye(2)[None])
    torch.testing.assert_close(norm(x_TD, HERE), torch.tensor([[5.0], [2.0], [1.0]]))


def test_centred_cosine_is_pearsons_correlation():
    x_TD, v_ED = torch.randn(6, 9), torch.randn(4, 9)
    got = Cosine(v_ED, center=True)(x_TD, Context(1, 6))
    expected = torch.corrcoef(torch.cat([x_TD, v_ED]))[:6, 6:]
    torch.testing.assert_close(got, expected)


def test_top_input_direction_is_the_first_right_singular_vector():
    A_RD, B_OR = torch.randn(3, 10), torch.randn(7, 3)
    direction = top_input_direction(A_RD, B_OR)
    expected = torch.linalg.svd(B_OR @ A_RD).Vh[0]
    assert abs(float(direction @ expected)) == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(top_input_direction(A_RD, torch.zeros(7, 3)), torch.zeros(10)), "no update, no direction"


def test_random_scores_depend_on_the_token_alone():
    random = Random(5, seed=3).eval()
    ids_BS = torch.tensor([[4, 9], [9, 4]])
    scores_TE = random(torch.zeros(4, 0), Context(2, 2, input_ids_BS=ids_BS))
    assert torch.equal(scores_TE[0], scores_TE[3])
    assert torch.equal(scores_TE[1], scores_TE[2])
    assert not torch.equal(scores_TE[0], scores_TE[1])
    assert scores_TE.min() >= 0
    assert scores_TE.max() < 1
    many = random(torch.zeros(5000, 0), Context(1, 5000, input_ids_BS=torch.arange(5000)[None]))
    assert many.argmax(1).bincount().min() > 800, "no expert is favoured"
    assert many.histc(10, 0, 1).min() > 2000, "all of [0, 1) is drawn alike"
    with pytest.raises(RosterError, match="token ids"):
        random(torch.zeros(4, 0), Context(2, 2))


def test_what_was_decided_for_a_row_scores_its_tokens():
    decided = torch.tensor([[[2.0, 0.0], [0.7, 0.3]], [[1.0, 1.0], [0.5, 0.5]]])
    context = Context(2, 2, memory={DECISION: decided})
    scores_TE = Decided(3)(torch.zeros(4, 0), context)
    torch.testing.assert_close(scores_TE, torch.tensor([[0.3, 0.0, 0.7]] * 2 + [[0.0, 1.0, 0.0]] * 2))


def test_who_weighs_less_than_nothing_is_on_duty_too():
    """Or a row would be answered otherwise beside one for which the same expert has a positive weight."""
    assert on_duty(torch.tensor([[[2.0, 0.0], [-0.5, 0.0]]])) == (2,)
    route = Given(2)(torch.tensor([[0.0, -0.5]]), Context(1, 1))
    assert route.duty == (1,)
    assert route.dense().tolist() == [[0.0, -0.5]]


def test_task_table_reads_the_row_of_each_task():
    table = TaskTable(torch.eye(2), torch.full((2,), 0.5), needed_by="the test")
    scores_TE = table(torch.zeros(6, 0), Context(3, 2, task_ids_B=torch.tensor([1, -1, 0])))
    assert scores_TE.tolist() == [[0, 1], [0, 1], [0.5, 0.5], [0.5, 0.5], [1, 0], [1, 0]]
    for ids, message in ((None, "the test needs to know the task"), (torch.tensor([2]), r"task id 2 is outside -1..1")):
        with pytest.raises(RosterError, match=message):
            table.check(ids)


def test_prompt_pooled_reads_the_prompt_alone():
    inner = Linear(2, 2)
    inner.weight_ED.data = torch.eye(2)
    prompt_BS = torch.tensor([[True, True, False]])
    x_TD = torch.tensor([[1.0, 3.0], [3.0, 5.0], [100.0, 100.0]])
    scores = PromptPooled(inner, "key")(x_TD, Context(1, 3, prompt_BS=prompt_BS))
    assert scores.tolist() == [[2.0, 4.0]] * 3


def test_top_k_weights():
    scores_TE = torch.tensor([[0.0, math.log(3.0), math.log(1.0)], [5.0, 5.0, -torch.inf], [1.0, 2.0, 3.0]])
    gate = TopK(2)(scores_TE, HERE).dense()
    torch.testing.assert_close(gate[0].sort().values, torch.tensor([0.0, 0.25, 0.75]))
    torch.testing.assert_close(gate[1], torch.tensor([0.5, 0.5, 0.0]))
    over_all = TopK(1, "all")(scores_TE, HERE).dense()
    torch.testing.assert_close(over_all[0], torch.tensor([0.0, 0.6, 0.0]))
    assert TopK(9)(scores_TE, HERE).dense().shape == (3, 3), "asking for more than there are takes all"
    biased = TopK(1)(scores_TE, HERE, bias_E=torch.tensor([10.0, 0.0, 0.0]))
    assert torch.equal(biased.chosen().int().argmax(1), torch.tensor([0, 0, 0]))
    for bad in (lambda: TopK(0), lambda: TopK(1, "some")):
        with pytest.raises(RosterError):
            bad()


def test_top_p_takes_the_smallest_set_that_reaches_p():
    scores_TE = torch.tensor([[0.5, 0.3, 0.2], [0.98, 0.01, 0.01]]).log()
    route = TopP(0.7)(scores_TE, HERE)
    torch.testing.assert_close(route.dense(), torch.tensor([[0.625, 0.375, 0.0], [1.0, 0.0, 0.0]]))
    torch.testing.assert_close(TopP(0.7, renormalize=False)(scores_TE, HERE).dense()[0], torch.tensor([0.5, 0.3, 0.0]))
    assert TopP(1.0)(scores_TE, HERE).chosen().all()
    with pytest.raises(RosterError, match="0 < p <= 1"):
        TopP(0.0)


def test_relu_all_present_and_relaxed_bernoulli():
    scores_TE = torch.tensor([[-1.0, 2.0], [-1.0, -2.0]])
    assert ReLU()(scores_TE, HERE).dense().tolist() == [[0.0, 2.0], [0.0, 0.0]]
    torch.testing.assert_close(All()(scores_TE, HERE).dense(), scores_TE.softmax(1))
    torch.testing.assert_close(All("sigmoid", temperature=2.0)(scores_TE, HERE).dense(), (scores_TE / 2).sigmoid())
    with pytest.raises(RosterError, match="softmax"):
        All("softmx")
    present = Present(TopK(2), torch.tensor([True, False]))(scores_TE, HERE)
    torch.testing.assert_close(present.dense(), scores_TE.softmax(1) * torch.tensor([1.0, 0.0]))
    assert present.counts_E.tolist() == [2, 0]
    bernoulli = RelaxedBernoulli().eval()(torch.zeros(2, 4), Context(2, 1))
    torch.testing.assert_close(bernoulli.dense(), torch.full((2, 4), 0.25))
    sampled = RelaxedBernoulli().train()(torch.zeros(6, 4), Context(2, 3)).dense()
    assert torch.equal(sampled[0], sampled[2]), "one sample per row"
    assert not torch.equal(sampled[0], sampled[3])


def test_relaxed_bernoulli_samples_as_torch_does():
    """The mean of the relaxed samples, against torch's own distribution."""
    logits = torch.tensor([1.0, -0.5, 0.0])
    rows = 20000
    ours = RelaxedBernoulli().train()
    weights = ours(logits.repeat(rows, 1), Context(rows, 1)).dense()
    samples = torch.distributions.RelaxedBernoulli(torch.tensor(1.0), logits=logits).rsample((rows,))
    expected = samples / samples.sum(1, keepdim=True)
    torch.testing.assert_close(weights.mean(0), expected.mean(0), atol=0.01, rtol=0)


def test_load_balancing_loss_is_transformers():
    scores_TE = torch.randn(7, 4)
    mask_BS = torch.tensor([[1, 1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    for mask in (None, mask_BS):
        context = Context(1, 7, mask_BS=mask)
        score = Linear(4, 4)
        score.weight_ED.data = torch.eye(4)
        Router(score, TopK(2), [LoadBalancing(1.0)])(scores_TE, context)
        attention = None if mask is None else mask.long()
        expected = load_balancing_loss_func((scores_TE,), num_experts=4, top_k=2, attention_mask=attention)
        torch.testing.assert_close(context.losses["router"], expected)


def test_balance_by_hand():
    scores_TE = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    route = TopK(1)(scores_TE, Context(1, 2))
    route.scores_TE = scores_TE
    context = Context(1, 2, mask_BS=torch.tensor([[False, True]]))
    assert float(ZLoss(2.0)(route, context)) == pytest.approx(2 * math.log(4.0) ** 2, rel=1e-6)
    bias = LossFreeBias(2, rate=0.5).train()
    even = Route.slots(torch.tensor([[0], [0]]), torch.ones(2, 1), 2)
    assert bias(even, context) is None
    bias.advance(0.5)
    assert bias.bias_E.tolist() == [-0.5, 0.5]
    assert bias.load_E.tolist() == [0.0, 0.0]
    bias.eval()(even, context)
    assert bias.load_E.tolist() == [0.0, 0.0], "evaluation does not move the bias"


def test_bias_needs_a_selection_that_reads_it():
    with pytest.raises(RosterError, match="All reads none"):
        Router(Linear(2, 2), All(), [LossFreeBias(2)])
    with pytest.raises(RosterError, match="2 balance parts"):
        Router(Linear(2, 2), TopK(1), [LossFreeBias(2), LossFreeBias(2)])
    router = Router(Linear(2, 3), TopK(1), [LossFreeBias(3)])
    router.balance[0].bias_E.copy_(torch.tensor([0.0, 99.0, 0.0]))
    assert router(torch.randn(5, 2), Context(1, 5)).counts_E.tolist() == [0, 5, 0]
