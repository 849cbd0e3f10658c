"""Conversions against plain transformers, which nobody here wrote: the folder is loaded and must answer as promised."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MixtralForCausalLM, Qwen2Config

from roster.convert import plan_btx, plan_upcycling, prove
from roster.convert.dense import open_dense
from roster.errors import RosterError
from roster.weights import run

IDS = torch.randint(96, (2, 24), generator=torch.Generator().manual_seed(1))


def config(**settings):
    shape = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return LlamaConfig(**{**shape, **heads, "initializer_range": 0.2, **settings})


def dense(folder, seed=0, **settings):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(**settings))
    model.save_pretrained(folder)
    return folder


def carried_out(plan, out):
    run(plan, out)
    return out


def test_copies_are_the_dense_model(tmp_path):
    before = dense(tmp_path / "dense")
    made = carried_out(plan_upcycling(open_dense(before), copies=4, groups=2), tmp_path / "made")
    proof = prove(before, made, IDS)
    assert proof.exact, proof.text()
    model, report = MixtralForCausalLM.from_pretrained(made, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.num_local_experts == 4
    assert model.config.num_experts_per_tok == 2


@pytest.mark.parametrize(("shards", "copies", "groups"), [(2, 4, 2), (3, 2, 1), (4, 1, 1)])
def test_shards_in_whole_groups_are_the_dense_model(tmp_path, shards, copies, groups):
    before = dense(tmp_path / "dense")
    plan = plan_upcycling(open_dense(before), copies, shards, groups)
    proof = prove(before, carried_out(plan, tmp_path / "made"), IDS)
    assert proof.exact, proof.text()


def test_in_bfloat16_halves_lose_nothing(tmp_path):
    torch.manual_seed(0)
    LlamaForCausalLM(config()).to(torch.bfloat16).save_pretrained(tmp_path / "dense")
    made = carried_out(plan_upcycling(open_dense(tmp_path / "dense"), 2, 2, 1), tmp_path / "made")
    assert prove(tmp_path / "dense", made, IDS).exact


def test_the_published_cube_root_is_another_function_with_silu(tmp_path):
    before = dense(tmp_path / "dense")
    made = carried_out(plan_upcycling(open_dense(before), 2, 2, 1), tmp_path / "made")
    weights = load_file(made / "model.safetensors")
    for name, each in weights.items():
        if ".experts." in name:
            undone = each / 2 if ".w3." in name else each
            weights[name] = undone * (2 ** (1 / 3))
    model = MixtralForCausalLM.from_pretrained(None, config=json_config(made), state_dict=weights)
    with torch.no_grad():
        apart = (model(IDS).logits - AutoModelForCausalLM.from_pretrained(before)(IDS).logits).abs().max()
    assert apart > 0.1


def json_config(folder):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def test_models_become_experts_and_all_else_their_mean(tmp_path):
    folders = [dense(tmp_path / f"m{seed}", seed) for seed in range(3)]
    made = carried_out(plan_btx([open_dense(each) for each in folders], top_k=2), tmp_path / "made")
    was, now = [load_file(each / "model.safetensors") for each in folders], load_file(made / "model.safetensors")
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.weight", "model.norm.weight"):
        torch.testing.assert_close(now[name], torch.stack([each[name] for each in was]).mean(0))
    for expert in range(3):
        own = now[f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"]
        assert torch.equal(own, was[expert]["model.layers.1.mlp.down_proj.weight"])
    assert not prove(folders[0], made, IDS).exact


def test_copies_of_one_model_give_it_back(tmp_path):
    before = dense(tmp_path / "dense")
    made = carried_out(plan_btx([open_dense(before)] * 3), tmp_path / "made")
    assert prove(before, made, IDS).exact


def test_the_config_says_what_the_dense_one_said(tmp_path):
    before = dense(tmp_path / "dense", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4})
    made = carried_out(plan_upcycling(open_dense(before)), tmp_path / "made")
    assert prove(before, made, IDS).exact
    assert json.loads((made / "config.json").read_text())["rope_parameters"]["rope_theta"] == 5e4


def test_what_cannot_be_is_refused_before_a_weight_is_read(tmp_path):
    before = open_dense(dense(tmp_path / "dense"))
    with pytest.raises(RosterError, match="48 hidden units does not divide into 5 shards"):
        plan_upcycling(before, shards=5)
    with pytest.raises(RosterError, match="3 groups on duty of 2 copies"):
        plan_upcycling(before, copies=2, groups=3)
    with pytest.raises(RosterError, match="at least two models"):
        plan_btx([before])
    with pytest.raises(RosterError, match="4 of 2 experts a token"):
        plan_btx([before, before], top_k=4)
    wider = open_dense(dense(tmp_path / "wider", intermediate_size=64))
    with pytest.raises(RosterError, match=r"\[32, 64\]"):
        plan_btx([before, wider])
    Qwen2Config(hidden_size=32).save_pretrained(tmp_path / "qwen")
    (tmp_path / "qwen" / "model.safetensors").write_bytes((tmp_path / "dense" / "model.safetensors").read_bytes())
    with pytest.raises(RosterError, match="'qwen2' model"):
        open_dense(tmp_path / "qwen")
    with pytest.raises(RosterError, match="attention_bias"):
        open_dense(dense(tmp_path / "biased", attention_bias=True))
