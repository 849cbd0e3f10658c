"""Recipes whose layers, experts or draws share something: that they do, and what comes of it."""

import pytest
import torch
from torch.nn import functional as F

import tiny
from roster import RosterError, trace
from roster.context import Context
from roster.moe.competing import Competing
from roster.moe.layer import MoE
from roster.moe.replacing import replace
from roster.train.consistency import training_loss, two_draws
from roster.train.schedule import advance


def made(slug, **options):
    torch.manual_seed(0)
    return replace(tiny.base(), slug, options=options)


def blocks(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def test_rmoe_has_one_cell_per_model():
    one, other = made("rmoe"), made("rmoe")
    cells = [{id(cell) for cell in blocks(model, torch.nn.GRUCell)} for model in (one, other)]
    assert [len(each) for each in cells] == [1, 1]
    assert cells[0] != cells[1]


def test_autonomy_of_experts_costs_what_a_dense_block_does():
    experts = blocks(made("autonomy-of-experts"), MoE)[0].experts
    E, P, D = experts.projection_EPD.shape
    F_expert = experts.up_EDF.shape[2]
    cost = E * P * D + 2 * (P * F_expert + 2 * D * F_expert)
    assert cost <= 3 * 32 * 48
    assert cost > 0.8 * 3 * 32 * 48


def test_a_contest_is_won_by_the_strongest_answers_and_teaches_the_router():
    model = made("competesmoe", rate=1.0, distill=1.0, balance=0.0).train()
    block = blocks(model, Competing)[0]
    x_BSD = torch.randn(2, 3, 32)

    context = Context(2, 3)
    out = block(x_BSD, context)
    answers_ETD, strength_TE = block.contest(x_BSD.reshape(6, 32))
    one = block.experts(x_BSD.reshape(6, 32), torch.tensor([0, 0, 6, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(answers_ETD[2], one)
    torch.testing.assert_close(strength_TE[:, 2], one.norm(dim=1))
    top, who = strength_TE.topk(2, dim=1)
    expected = sum(top.softmax(1)[:, i, None] * answers_ETD[who[:, i], torch.arange(6)] for i in range(2))
    torch.testing.assert_close(out.view(6, 32), expected)
    prob_TE = block.router.score(x_BSD.reshape(6, 32), context).softmax(1)
    gate_TE = torch.zeros_like(prob_TE).scatter(1, who, top.softmax(1))
    torch.testing.assert_close(context.losses[block.router.site], F.mse_loss(prob_TE, gate_TE))


def test_two_draws_by_hand():
    model = made("thor").train()
    ids = tiny.padded(tiny.tokens(6, 4), "right")[0]
    labels = ids.masked_fill(ids == 0, -100)
    inputs = {"input_ids": ids, "labels": labels, "use_cache": False}
    torch.manual_seed(1)
    first, second = (model(**inputs) for _ in range(2))
    p, q = first.logits[:, :-1].softmax(-1), second.logits[:, :-1].softmax(-1)
    both_BS = (p * (p / q).log()).sum(-1) / 2 + (q * (q / p).log()).sum(-1) / 2
    expected = (first.loss + second.loss) / 2 + 3.0 * both_BS[labels[:, 1:] != -100].mean()
    torch.manual_seed(1)
    torch.testing.assert_close(two_draws(model, 3.0, **inputs), expected, atol=1e-5, rtol=1e-4)
    assert both_BS.mean() > 1e-4, "draws differ"
    torch.manual_seed(1)
    torch.testing.assert_close(training_loss(model, **inputs), two_draws_again(model, inputs), atol=1e-5, rtol=1e-4)


def two_draws_again(model, inputs):
    torch.manual_seed(1)
    return two_draws(model, 1.0, **inputs)


def test_stablemoe_freezes_its_routes():
    model = made("stablemoe", until=0.5)
    ids = tiny.padded(tiny.tokens(6, 5), "right")[0]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)

    def routes():
        with torch.no_grad(), trace(model.eval()) as traced:
            model(input_ids=ids, use_cache=False)
        model.train()
        return torch.stack([traced.gates(site) != 0 for site in traced.sites])

    def step():
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()

    model.train()
    step()
    advance(model, 0.5)
    frozen = routes()
    for _ in range(3):
        step()
        advance(model, 0.9)
    assert torch.equal(routes(), frozen)


@pytest.mark.parametrize(
    ("slug", "options", "message"),
    [
        ("grin", {"k": 9}, "k=9 of num_experts=8"),
        ("mowe", {"counts": [1, 2]}, "counts has 2 entries"),
        ("mowe", {"parts": 7}, "do not divide by 7"),
        ("competesmoe", {"rate": 2.0}, "rate"),
        ("x-moe", {"temperature": 0.0}, "temperature"),
        ("evomoe", {"threshold": 0.0}, "threshold"),
        ("smoe-dropout", {"start": 9}, "k=9"),
        ("stablemoe", {"until": -0.1}, "until=-0.1"),
        ("autonomy-of-experts", {"rank": 0}, "rank"),
    ],
)
def test_bad_values_are_named_when_the_model_is_built(slug, options, message):
    with pytest.raises(RosterError, match=message):
        made(slug, **options)
