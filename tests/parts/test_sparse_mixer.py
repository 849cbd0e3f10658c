"""SparseMixer against the exact gradient of the expected loss, found by asking every expert."""

import pytest
import torch
from transformers.models.phimoe.modeling_phimoe import sparsemixer

from roster import RosterError
from roster.context import Context
from roster.select import SparseMixer
from roster.select.noise import gumbel

EVERYONE = 1e6  # a jitter at which all experts take part in the draw
SCORES_E = torch.tensor([0.4, -0.3, 1.1, 0.2])


def said():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(2))


def loss(y_TD):
    """A polynomial of degree three in the weight of an expert, for which the two points are exact."""
    return (y_TD - torch.tensor([0.3, -1.0, 0.5])).square().sum(-1) + 0.2 * y_TD.pow(3).sum(-1)


def exact_gradient():
    scores_E = SCORES_E.clone().requires_grad_(True)
    prob_E = scores_E.softmax(0)
    (prob_E * loss(prob_E.detach()[:, None] * said())).sum().backward()
    return scores_E.grad


def gradient_of_each_draw(select, tokens=4000):
    """{(expert, whole?): gradient}, read off many tokens with the same scores."""
    scores_TE = SCORES_E.repeat(tokens, 1).requires_grad_(True)
    route = select(scores_TE, Context(1, tokens))
    prob_E = SCORES_E.softmax(0)
    whole_T = (route.weight_R - prob_E[route.expert_R]).abs() < 1e-6
    loss(route.weight_R[:, None] * said()[route.expert_R]).sum().backward()
    found = {}
    for expert, whole, grad_E in zip(route.expert_R.tolist(), whole_T.tolist(), scores_TE.grad, strict=True):
        found.setdefault((expert, whole), grad_E)
    return found


def test_the_expected_estimate_is_the_exact_gradient():
    torch.manual_seed(0)
    found = gradient_of_each_draw(SparseMixer(1, EVERYONE, spare_best=False).train())
    prob_E = SCORES_E.softmax(0)
    expected = sum(prob_E[e] * (0.25 * found[e, True] + 0.75 * found[e, False]) for e in range(4))
    torch.testing.assert_close(expected, exact_gradient(), atol=1e-5, rtol=1e-5)


def test_the_gate_alone_does_not_give_it():
    torch.manual_seed(0)
    found = gradient_of_each_draw(SparseMixer(1, EVERYONE, spare_best=False).train())
    assert not torch.allclose(found[2, True], exact_gradient(), atol=1e-2), "the best expert's own gate"


def test_the_best_expert_is_spared_by_default():
    torch.manual_seed(0)
    found = gradient_of_each_draw(SparseMixer(1, EVERYONE).train())
    assert (2, False) not in found
    assert {(0, False), (0, True), (2, True)} <= set(found)


def test_draws_follow_the_softmax_over_those_near_the_best():
    torch.manual_seed(0)
    # At 0.4 an expert may be behind by 0.8 of the size: 1.1 - 0.4 is, 1.1 - 0.2 is not.
    route = SparseMixer(1, 0.4).train()(SCORES_E.repeat(20_000, 1), Context(1, 20_000))
    share_E = route.counts_E / 20_000
    prob = torch.tensor([0.4, 1.1]).softmax(0)
    torch.testing.assert_close(share_E, torch.tensor([prob[0], 0.0, prob[1], 0.0]), atol=0.02, rtol=0)


def test_evaluation_takes_the_best_weighted_when_taken():
    route = SparseMixer(2, EVERYONE).eval()(SCORES_E[None], Context(1, 1))
    first = SCORES_E.softmax(0)[2]
    second = SCORES_E[[0, 1, 3]].softmax(0)[0]
    torch.testing.assert_close(route.dense(), torch.stack([second, second * 0, first, second * 0])[None])


@pytest.mark.parametrize("jitter", [0.1, EVERYONE])
@pytest.mark.parametrize("training", [True, False])
def test_the_same_as_in_transformers(jitter, training):
    """Phi-3.5-MoE's own. Its second draw takes one more random number, so that only first draws can be compared."""
    torch.manual_seed(3)
    scores_TE = torch.randn(200, 6).requires_grad_(True)
    theirs_TE = scores_TE.detach().clone().requires_grad_(True)
    torch.manual_seed(4)
    route = SparseMixer(2, jitter).train(training)(scores_TE, Context(1, 200))
    torch.manual_seed(4)
    weight_TK, expert_TK = sparsemixer(theirs_TE, jitter, training)
    compared = 1 if training else 2
    expert_TK, weight_TK = expert_TK[:, :compared], weight_TK[:, :compared]
    ours_TK = route.weight_TK[:, :compared]
    assert torch.equal(route.expert_TK[:, :compared], expert_TK)
    torch.testing.assert_close(ours_TK, weight_TK, atol=1e-4, rtol=1e-4)
    value_TK = torch.randn(weight_TK.shape)
    (ours_TK * value_TK).sum().backward()
    (weight_TK * value_TK).sum().backward()
    torch.testing.assert_close(scores_TE.grad, theirs_TE.grad)


def test_bad_values():
    with pytest.raises(RosterError, match="k >= 1"):
        SparseMixer(0)
    with pytest.raises(RosterError, match="jitter"):
        SparseMixer(1, 0.0)


def test_gumbel_noise_draws_from_the_softmax():
    torch.manual_seed(0)
    noise_NE = gumbel(200_000, 4, device=SCORES_E.device)
    assert noise_NE.isfinite().all()
    drawn_E = torch.bincount((SCORES_E + noise_NE).argmax(1), minlength=4) / 200_000
    torch.testing.assert_close(drawn_E, SCORES_E.softmax(0), atol=4e-3, rtol=0)  # four standard errors
