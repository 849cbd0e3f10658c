"""What a routed model cannot do is said in one clear error, and what copies of it can do still works."""

import copy
import io
import pickle

import pytest
import torch
import transformers
from torch import nn

import roster
import tiny
from roster.adapters.attach import attach
from roster.moe import replace
from roster.recipes import RECIPES

IDS = torch.stack(tiny.tokens(5, 5))


def adapters():
    return attach(tiny.base(), tiny.library(tiny.base()), RECIPES["arrow-mbc"](), recipe="arrow-mbc").eval()


def blocks():
    return replace(tiny.base(), "gshard-top2").eval()


@pytest.mark.parametrize("make", [adapters, blocks])
def test_pickles(make):
    model = make()
    for dump in (pickle.dumps, lambda m: torch.save(m, io.BytesIO())):
        with pytest.raises(roster.RosterError, match=r"save_pretrained, or torch\.save its state_dict"):
            dump(model)
    torch.save(model.state_dict(), io.BytesIO())
    with torch.no_grad():
        wanted = model(input_ids=IDS).logits
        assert torch.equal(copy.deepcopy(model)(input_ids=IDS).logits, wanted)
        assert torch.equal(copy.copy(model)(input_ids=IDS).logits, wanted)


@pytest.mark.parametrize("make", [adapters, blocks])
def test_data_parallel(make):
    """Its replicas run in threads of their own; what they are marked with is enough to tell."""
    model = make()
    model._is_replica = True
    with pytest.raises(roster.RosterError, match="DistributedDataParallel"):
        model(input_ids=IDS)


@pytest.mark.parametrize("make", [blocks])
def test_blocks_are_no_adapter(make):
    with pytest.raises(roster.RosterError, match=r"no single adapter can replace.*roster\.moe\.export"):
        make().merge()


def test_a_layer_that_returns_more_than_a_tensor_is_named():
    """Llama 4's router is a linear layer by class and returns scores and logits."""
    config = transformers.Llama4TextConfig(
        vocab_size=tiny.VOCAB, hidden_size=32, intermediate_size=16, intermediate_size_mlp=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=4, pad_token_id=0,
    )  # fmt: skip
    model = transformers.Llama4ForCausalLM(config).eval()
    library = tiny.library(model, targets=("router", "q_proj"))
    assert any(name.endswith("router") for name in library.module_names)
    model = attach(model, library, RECIPES["uniform"](), recipe="uniform")
    with pytest.raises(roster.RosterError, match=r"feed_forward\.router.*returns a tuple.*target_modules"):
        model(input_ids=IDS)
    assert isinstance(model, nn.Module)
