"""What a routed model cannot do is said in one clear error, and what copies of it can do still works."""

import copy
import dataclasses
import inspect
import io
import pickle

import pytest
import torch
import transformers

import roster
import tiny
from roster import Router
from roster.adapters.attach import attach
from roster.adapters.mixing import Mixing
from roster.moe import replace
from roster.recipes import RECIPES
from roster.score import Linear
from roster.select import TopK

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
    with pytest.raises(roster.RosterError, match=r"feed_forward\.router.*returns a tuple.*target_modules"):
        attach(model, library, RECIPES["uniform"](), recipe="uniform")
    assert not any("roster" in name for name, _ in model.named_modules())  # refused before anything was changed


def test_the_output_layer_is_refused_by_name():
    """It sees only the positions whose logits are wanted, so that rows could not be told apart."""
    model = tiny.base()
    with pytest.raises(roster.RosterError, match=r"output layer 'lm_head'.*train the adapters without it"):
        attach(model, tiny.library(model, targets=("q_proj", "lm_head")), RECIPES["uniform"](), recipe="uniform")
    assert type(model) is type(tiny.base()), "nothing was attached"


@pytest.mark.parametrize("slug", ["arrow-mbc", "uniform"])
def test_what_a_recipe_does_not_train_is_frozen_when_it_is_attached(slug):
    model = attach(tiny.base(), tiny.library(tiny.base()), RECIPES[slug](), recipe=slug)
    assert not [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("trains", [frozenset(), frozenset({"experts"}), frozenset({"router"})])
def test_a_router_trains_only_where_the_recipe_says_so(trains):
    """Of a router with parameters of its own, whatever the recipe."""
    mixing = Mixing(lambda site: Router(Linear(site.width, site.num_experts), TopK(1)), trains=trains)
    model = attach(tiny.base(), tiny.library(tiny.base()), mixing)
    kinds = {"router": ".router.", "experts": ".experts."}
    for kind, part in kinds.items():
        own = [parameter for name, parameter in model.named_parameters() if part in name]
        assert own
        assert {parameter.requires_grad for parameter in own} == {kind in trains}


@pytest.mark.parametrize("make", [adapters, blocks])
def test_what_transformers_calls_by_its_own_signature_keeps_the_defaults(make):
    cls = type(make())
    ours, theirs = (inspect.signature(each._set_gradient_checkpointing) for each in (cls, cls.base_class))
    assert ours.parameters["enable"].default is theirs.parameters["enable"].default is True


@pytest.mark.parametrize("make", [adapters, blocks])
def test_a_plan_does_not_change_under_a_model(make):
    plan = make().roster.plan
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.trains = frozenset({"base"})
