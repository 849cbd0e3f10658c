"""Recipes that differ in who is chosen: against transformers, finite differences, and what their sources promise."""

import pytest
import torch
from transformers import SwitchTransformersConfig
from transformers.models.switch_transformers import modeling_switch_transformers as theirs

import tiny
from roster import Context, RosterError, Router
from roster.balance import LoadBalancing, ZLoss
from roster.moe.layout import Place
from roster.moe.replacing import replace
from roster.recipes import find
from roster.score import Linear
from roster.select import Capacity, ReLU, TopK


@pytest.mark.parametrize("capacity", [0, 6])
def test_the_switch_router_is_that_of_transformers(capacity):
    torch.manual_seed(0)
    T, D, E = 32, 16, 4
    config = SwitchTransformersConfig(
        hidden_size=D, num_experts=E, expert_capacity=capacity or T, router_bias=False, router_jitter_noise=0.0
    )
    router = theirs.SwitchTransformersTop1Router(config)
    x_TD = torch.randn(T, D)
    dispatch_BSE, prob_BS1, logits_BSE = router(x_TD[None])

    select = TopK(1, "all")
    select = Capacity(select, capacity * E / T, "order") if capacity else select
    ours = Router(Linear(D, E), select, [LoadBalancing(1.0)])
    ours.score.weight_ED.data.copy_(router.classifier.weight)
    context = Context(1, T)
    route = ours(x_TD, context)
    torch.testing.assert_close(route.chosen(), dispatch_BSE[0].bool())
    torch.testing.assert_close(route.dense(), dispatch_BSE[0] * prob_BS1[0])
    if capacity:
        asked_E = torch.bincount(logits_BSE[0].argmax(1), minlength=E)
        assert route.dropped_E.tolist() == (asked_E - capacity).clamp_min(0).tolist()
        assert route.dropped_E.sum() > 0
        return
    probs_BSE = logits_BSE.softmax(-1)
    aux = theirs.load_balancing_loss_func(probs_BSE, logits_BSE.argmax(-1))
    torch.testing.assert_close(context.losses["router"], aux)
    torch.testing.assert_close(ZLoss(1.0)(route, context), theirs.router_z_loss_func(logits_BSE))
    (gradient,) = torch.autograd.grad(aux, router.classifier.weight)
    context.losses["router"].backward()
    torch.testing.assert_close(ours.score.weight_ED.grad, gradient)


@torch.no_grad()
def largest_change(select, steps):
    """Of a small mixture's output from one step to the next, while a token moves along a line in equal steps."""
    torch.manual_seed(0)
    start_D, way_D = torch.randn(2, 6, dtype=torch.float64)
    score, weight_EDF = Linear(6, 4, std=1.0).double(), torch.randn(4, 6, 6, dtype=torch.float64)
    x_TD = start_D + torch.linspace(-5, 5, steps, dtype=torch.float64)[:, None] * way_D
    gate_TE = select(score(x_TD, Context(1, steps)), Context(1, steps)).dense().double()
    return float(torch.einsum("te,edf,td->tf", gate_TE, weight_EDF, x_TD).diff(dim=0).abs().max())


def test_remoes_gate_is_continuous_and_top_ks_is_not():
    """Steps a tenth as long change the output a tenth as much, unless it jumps."""
    assert largest_change(ReLU(), 10_001) == pytest.approx(largest_change(ReLU(), 1001) / 10, rel=0.1)
    assert largest_change(TopK(1, "all"), 10_001) > 0.5 * largest_change(TopK(1, "all"), 1001)


def test_remoes_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    score, select = Linear(5, 4, std=1.0).double(), ReLU()
    experts_EDD, x_TD = torch.randn(4, 5, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)

    def output(weight_ED):
        scores_TE = x_TD @ weight_ED.T
        return torch.einsum("te,edf,td->tf", select(scores_TE, Context(1, 7)).dense(), experts_EDD, x_TD)

    assert torch.autograd.gradcheck(output, (score.weight_ED.detach().requires_grad_(),))


def test_a_layer_reads_its_own_attention():
    """The importance that DA-MoE reads is that of transformers' own attention weights."""
    model = replace(tiny.base(), "da-moe").eval()
    plain = tiny.base()
    plain.set_attn_implementation("eager")
    ids, mask = tiny.padded(tiny.tokens(6, 4), "right")
    seen = []
    block = next(m for m in model.modules() if isinstance(m, Router))
    block.select.register_forward_hook(lambda part, args, out: seen.append(args[1].memory["attention"]))
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask, use_cache=False)
        weights = plain(input_ids=ids, attention_mask=mask, output_attentions=True).attentions[0]
    torch.testing.assert_close(seen[0], weights)


@pytest.mark.parametrize(
    ("slug", "options", "says"),
    [
        ("expert-prototyping", {"num_experts": 8, "k": 3}, "k=3"),
        ("sam-switch-mixture", {"num_experts": 8, "groups": 8, "k": 2}, "groups=8"),
        ("adamoe", {"null": -1}, "null=-1"),
        ("expert-choice", {"per_token": 9}, "k=9"),
        ("maskmoe", {"visible": 9}, "k=9"),
        ("maskmoe", {"counts": [1, 2]}, "counts has 2"),
        ("hash-routing", {"counts": [1, 2]}, "counts has 2"),
        ("switch-transformer", {"capacity": -1.0}, "drops every token"),
        ("mixture-of-depths", {"share": 0.0}, "share"),
        ("dynamic-moe-top-p", {"p": 1.5}, "p <= 1"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(slug, options, says):
    with pytest.raises(RosterError, match=says):
        replace(tiny.base(), slug, options=options)


def test_costs_are_equal():
    """A token's share of hidden units is the same in all that choose a fixed number of experts."""
    made = []
    place = Place("block", 0, 2, 8, 48, lambda count, each: made.append((count, each)) or torch.nn.Identity(), 64)
    for slug, k in [("expert-choice", 2), ("remoe", 2), ("expert-prototyping", 2), ("maskmoe", 1), ("base-layers", 1)]:
        made.clear()
        find(slug)().block(place)
        assert made == [(4 * k, 48 // k)], slug


def test_maskmoe_hides_experts_from_frequent_and_from_rare_ids():
    """By default: a frequent id sees some of the experts and not all, a rare one sees one."""
    place = Place("block", 0, 2, 8, 48, lambda count, each: torch.nn.Identity(), 64)
    seen_V = find("maskmoe")().block(place).router.score.visible_VE.sum(1)
    assert set(seen_V[:25].tolist()) == {2}
    assert set(seen_V[26:].tolist()) == {1}
