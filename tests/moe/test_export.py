"""Mixtures made of dense models, written as the sparse sibling of their family."""

import json

import pytest
import torch
import transformers

import roster
import tiny
from roster.balance import LossFreeBias
from roster.errors import RosterError
from roster.moe import export, replace
from roster.moe.exporting import _compare, _probe_length, as_architecture, read_blocks
from roster.moe.replacing import routed_blocks
from roster.moe.targets import TARGETS
from roster.select import TopK

_SMALL = {
    **{"vocab_size": tiny.VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
_MULTIPLIERS = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3}
_ROPE = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}}
# (family, settings, recipe, its options, layers, what comes out)
WRITTEN = {
    "Mixtral": ("Llama", _ROPE, "gshard-top2", {}, None, "MixtralForCausalLM"),
    "Mixtral of Mistral": (
        "Mistral",
        {"sliding_window": 4},
        "gshard-top2",
        {"k": 3, "num_experts": 6},
        None,
        "Mixtral",
    ),
    "tied": ("Llama", {"tie_word_embeddings": True}, "gshard-top2", {}, None, "MixtralForCausalLM"),
    "weights below 1": ("Llama", {}, "switch-transformer", {}, None, "Qwen2MoeForCausalLM"),
    "a dense layer": ("Llama", {}, "gshard-top2", {}, [1], "Qwen2MoeForCausalLM"),
    "a shared expert": ("Llama", {}, "deepseekmoe", {}, None, "Qwen2MoeForCausalLM"),
    "Qwen2-MoE": ("Qwen2", {}, "deepseekmoe", {}, None, "Qwen2MoeForCausalLM"),
    "Qwen3-MoE": ("Qwen3", {"head_dim": 8}, "gshard-top2", {}, None, "Qwen3MoeForCausalLM"),
    "Qwen3-MoE, Switch": ("Qwen3", {"head_dim": 8}, "switch-transformer", {}, [0], "Qwen3MoeForCausalLM"),
    "FlexOlmo": ("Olmo2", {}, "switch-transformer", {}, None, "FlexOlmoForCausalLM"),
    "GraniteMoE": ("Granite", _MULTIPLIERS, "gshard-top2", {}, None, "GraniteMoeForCausalLM"),
}


def made(family, settings, recipe, options=None, layers=None):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**_SMALL, **settings})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    return replace(model, recipe, options=options, layers=layers)


@torch.no_grad()
def logits(model, dtype=None):
    ids = torch.stack(tiny.tokens(9, 9, seed=2))
    return model(input_ids=ids).logits


@pytest.mark.parametrize("case", WRITTEN)
def test_written_as_an_architecture_that_transformers_loads(case, tmp_path):
    family, settings, recipe, options, layers, name = WRITTEN[case]
    model = made(family, settings, recipe, options, layers)
    before = {each: tensor.clone() for each, tensor in model.state_dict().items()}
    assert export(model, tmp_path / "plain").startswith(name)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=1e-5)
    assert logits(model).abs().max() > 1
    assert all(torch.equal(tensor, before[each]) for each, tensor in model.state_dict().items())
    ids = tiny.tokens(5, seed=3)[0][None]
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(again.generate(ids, **options), model.generate(ids, **options))
    # And back again: an exported mixture is one that roster adopts.
    torch.testing.assert_close(logits(roster.moe.adopt(again)), logits(model), atol=1e-5, rtol=1e-5)


def test_half_precision_stays(tmp_path):
    model = made("Llama", {}, "gshard-top2").to(torch.bfloat16)
    export(model, tmp_path / "plain")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert again.dtype == torch.bfloat16
    experts = routed_blocks(model)["model.layers.0.mlp"].block.experts
    assert torch.equal(again.model.layers[0].mlp.experts.down_proj, experts.down_EFD.mT)


def test_a_temperature_goes_into_the_weights(tmp_path):
    model = made("Llama", {}, "gshard-top2")
    for block in routed_blocks(model).values():
        block.block.router.select = TopK(2, temperature=0.25)
    export(model, tmp_path / "plain")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "settings", "recipe", "layers", "part"),
    [
        ("Llama", {}, "x-moe", None, "Hyperspherical at 'model.layers.0.mlp'"),
        ("Llama", {}, "loss-free-balancing", None, "GatedTopK at 'model.layers.0.mlp'"),
        ("Llama", {}, "dynamic-moe-top-p", None, "TopP at"),
        ("Llama", {}, "shortcut-moe", None, "Shortcut at"),
        ("Llama", {"mlp_bias": True}, "gshard-top2", None, "Gated with biases at"),
        ("Llama", {}, "router-tuning-mindskip", None, "RoutedAttention at"),
        ("Gemma", {"head_dim": 8}, "gshard-top2", None, "no sparse sibling of 'gemma'"),
        ("Granite", {}, "switch-transformer", None, "GraniteMoe always divides a token's weights by their sum"),
        ("Mistral", {}, "gshard-top2", [0], "Mixtral has no dense layers, and only 1 of 2"),
        ("Qwen3", {"head_dim": 8}, "deepseekmoe", None, "Qwen3Moe has no shared expert"),
    ],
)
def test_the_part_that_stands_in_the_way_is_named(family, settings, recipe, layers, part, tmp_path):
    model = made(family, settings, recipe, None, layers)
    with pytest.raises(RosterError, match=part) as error:
        export(model, tmp_path / "plain")
    assert "save_pretrained writes roster's own folder" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_bias_of_loss_free_balancing_stands_in_the_way(tmp_path):
    model = made("Llama", {}, "gshard-top2")
    router = routed_blocks(model)["model.layers.1.mlp"].block.router
    router.balance.append(LossFreeBias(8))
    read_blocks(model)  # a bias of zeros does nothing
    router.balance[-1].bias_E[3] = 0.1
    with pytest.raises(RosterError, match=r"the bias of LossFreeBias at 'model\.layers\.1\.mlp'"):
        export(model, tmp_path / "plain")


def test_every_tensor_has_a_place_and_every_place_a_tensor():
    model = made("Llama", {"attention_bias": True}, "gshard-top2")
    with pytest.raises(RosterError, match=r"not those of Mixtral: .*q_proj.bias"):
        as_architecture(model, read_blocks(model), TARGETS[0])


def test_logits_that_differ_are_refused():
    """Names may fit where meanings do not: Granite's multipliers have no place in Mixtral."""
    model = made("Granite", _MULTIPLIERS, "gshard-top2")
    with pytest.raises(
        RosterError, match=r"Mixtral cannot say .*: embedding_multiplier is 3\.0, there it is 'no such setting'"
    ):
        as_architecture(model, read_blocks(model), TARGETS[0])


def test_a_saved_folder_that_was_changed_says_where(tmp_path):
    model = made("Llama", {}, "gshard-top2")
    model.save_pretrained(tmp_path)
    manifest = json.loads((tmp_path / "roster.json").read_text(encoding="utf-8"))

    def load(**changes):
        (tmp_path / "roster.json").write_text(json.dumps({**manifest, **changes}), encoding="utf-8")
        return roster.load(tmp_path)

    options = {**manifest["made"], "options": {"num_experts": 4}}
    with pytest.raises(RosterError, match=r"tensor '.*' in .*model.safetensors' is \[8, "):
        load(made=options)
    with pytest.raises(RosterError, match=r"gate_proj.weight' is missing from"):
        load(made={**manifest["made"], "layers": [0]})
    with pytest.raises(RosterError, match="unknown kind 'moo': did you mean 'moe'"):
        load(kind="moo")
    with pytest.raises(RosterError, match="format 2"):
        load(format=2)
    load()
    with pytest.raises(RosterError, match="quantization_config does not apply"):
        roster.load(tmp_path, quantization_config={})
    assert roster.load(tmp_path, dtype="bfloat16").dtype == torch.bfloat16
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(RosterError, match="cannot be read"):
        roster.load(tmp_path)


def test_a_window_that_the_other_config_cannot_say_is_no_export(tmp_path):
    """Shorter than the window both models answer alike, so that a probe of 16 tokens vouched for another model."""
    window = {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 0, "max_position_embeddings": 128}
    model = made("Qwen3", window, "gshard-top2")
    assert "sliding_attention" in model.config.layer_types
    with pytest.raises(RosterError, match=r"cannot say what this model's config says: .*(layer_types|window)"):
        export(model, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_a_window_that_the_other_config_can_say_is_probed_past_its_end(tmp_path):
    model = made("Mistral", {"sliding_window": 24, "max_position_embeddings": 128}, "gshard-top2")
    assert _probe_length(model.config) == 32
    export(model, tmp_path / "plain")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    ids = torch.arange(60)[None] % 60
    with torch.no_grad():
        wanted, found = model(input_ids=ids).logits, plain(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_what_answers_otherwise_is_no_export(monkeypatch, tmp_path):
    """The last line of defence: settings agree and answers do not."""
    model = made("Llama", {}, "gshard-top2")
    monkeypatch.setattr("roster.moe.exporting._check_settings", lambda *_: None)
    plain = as_architecture(model, read_blocks(model), TARGETS[0])
    with torch.no_grad():
        plain.lm_head.weight[3] += 0.5
    with pytest.raises(RosterError, match="does not answer as this model does: logits differ by"):
        _compare(model, plain)
