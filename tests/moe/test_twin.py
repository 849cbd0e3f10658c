"""Twins share every tensor and route differently; self-contrast decodes by them."""

import pytest
import torch

import tiny
from roster.errors import RosterError
from roster.moe.contrast import SelfContrast, generate
from roster.moe.replacing import replace
from roster.moe.twin import rerouted
from roster.recipes import find
from roster.select import Rank, Soft, TopK


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    model = replace(tiny.base(), "gshard-top2").eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


@torch.no_grad()
def logits(model, ids, mask=None):
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits


def test_a_twin_shares_tensors_and_leaves_the_first_alone(model):
    ids = torch.stack(tiny.tokens(6, 6))
    before = logits(model, ids)
    twin = rerouted(model, lambda router: TopK(1))
    for (name, ours), (_, theirs) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert ours is theirs, name
    assert not torch.allclose(logits(twin, ids), before)
    torch.testing.assert_close(logits(model, ids), before)
    torch.testing.assert_close(logits(rerouted(model, lambda router: TopK(2)), ids), before)


def test_what_cannot_be_rerouted_is_refused():
    with pytest.raises(RosterError, match="no router"):
        rerouted(tiny.base(), lambda router: TopK(1))
    biased = replace(tiny.base(), "loss-free-balancing")
    with pytest.raises(RosterError, match="Soft reads no bias"):
        rerouted(biased, lambda router: Soft())


@pytest.mark.parametrize("side", ["left", "none"])
def test_self_contrast_is_the_formula_of_two_full_passes(model, side):
    beta, alpha, new = 0.7, 0.05, 4
    ids, mask = tiny.padded(tiny.tokens(5, 3 if side == "left" else 5), "left")
    out = generate(model, ids, mask, beta=beta, alpha=alpha, max_new_tokens=new, do_sample=False, pad_token_id=0)
    weak = rerouted(model, lambda router: Rank(2))
    for _ in range(new):
        strong_BV = logits(model, ids, mask)[:, -1].log_softmax(1)
        weak_BV = logits(weak, ids, mask)[:, -1].log_softmax(1)
        plausible_BV = strong_BV.exp() >= alpha * strong_BV.exp().max(1, keepdim=True).values
        best_B = ((1 + beta) * strong_BV - beta * weak_BV).masked_fill(~plausible_BV, -torch.inf).argmax(1)
        ids, mask = torch.cat([ids, best_B[:, None]], 1), torch.cat([mask, torch.ones_like(best_B)[:, None]], 1)
    for row, wanted in zip(out.tolist(), ids.tolist(), strict=True):
        end = wanted.index(2) + 1 if 2 in wanted else len(wanted)
        assert row[:end] == wanted[:end]


def test_without_contrast_it_is_greedy_and_beams_work(model):
    ids = torch.stack(tiny.tokens(5, 5))
    greedy = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(generate(model, ids, beta=0.0, max_new_tokens=4, do_sample=False, pad_token_id=0), greedy)
    beams = generate(model, ids, beta=0.5, max_new_tokens=4, do_sample=False, num_beams=3, pad_token_id=0)
    assert beams.shape[0] == 2


def test_the_recipe_composes_to_it_and_refuses_bad_options(model):
    ids = torch.stack(tiny.tokens(4))
    decode = find("scmoe-self-contrast")({"beta": 0.25, "rank": 3})
    assert decode(model, ids, max_new_tokens=2, do_sample=False, pad_token_id=0).shape[1] <= 6
    with pytest.raises(RosterError, match="beta"):
        SelfContrast(model, beta=-1.0)
    with pytest.raises(RosterError, match="alpha"):
        SelfContrast(model, alpha=0.0)
