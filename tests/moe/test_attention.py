"""Attention that tokens may skip."""

import pytest
import torch

import tiny
from roster.errors import RosterError
from roster.moe.replacing import replace, routed_blocks
from roster.moe.twin import rerouted
from roster.select import Forced


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi", "qwen3"])
def test_open_gates_are_the_base_and_closed_ones_save_the_block(architecture):
    ids = torch.stack(tiny.tokens(5, 5))
    base = logits(tiny.base(architecture), ids)
    model = replace(tiny.base(architecture), "router-tuning-mindskip").eval()
    assert {p.requires_grad for p in model.parameters()} == {True, False}
    always = rerouted(model, lambda router: Forced(0))
    torch.testing.assert_close(logits(always, ids), base)
    for block in routed_blocks(model).values():
        block.router.score.offset_E.data.fill_(-100.0)
        block.own.forward = None  # must not be called
    closed = logits(model, ids)
    assert not torch.allclose(closed, base)
    # Without attention a token does not see the others.
    torch.testing.assert_close(closed[:, :1], logits(model, ids[:, :1]))


def test_unknown_layers_are_refused():
    with pytest.raises(RosterError, match="0 to 1"):
        replace(tiny.base(), "router-tuning-mindskip", layers=[2])
