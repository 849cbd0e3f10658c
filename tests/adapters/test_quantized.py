"""4- and 8-bit bases by bitsandbytes itself, on the CPU."""

import warnings

import pytest
import torch
import transformers

import roster
import tiny

WIDE = {"hidden_size": 128, "intermediate_size": 256}  # 4-bit weights come in blocks of 64


@pytest.fixture(params=["load_in_8bit", "load_in_4bit"])
def config(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bitsandbytes says that a CPU is slow
        yield transformers.BitsAndBytesConfig(**{request.param: True})


@pytest.fixture
def base(tmp_path):
    name, arguments, _ = tiny.ARCHITECTURES["llama"]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**arguments, **WIDE}, **tiny._IDS)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path / "base")
    return model, tmp_path / "base"


def test_experts_are_added_to_what_the_quantised_layer_says(config, base, tmp_path):
    model, folder = base
    library = tiny.library(model, folder=tmp_path / "experts")
    routed = roster.load(folder, experts=library, router="uniform", quantization_config=config)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=config)
    name = "model.layers.1.self_attn.q_proj"
    seen = []
    routed.get_submodule(name).register_forward_hook(lambda layer, args, output: seen.append((args[0], output)))
    ids, mask = tiny.padded(tiny.tokens(6, 4), "left")
    with torch.no_grad():
        routed(input_ids=ids, attention_mask=mask)
        x, y = seen[0]
        experts = [library[expert].modules[name] for expert in library.names]
        update = sum(e.scale * x @ e.A_RD.T @ e.B_OR.T for e in experts) / len(experts)
        expected = plain.get_submodule(name)(x) + update
    real = mask.bool()
    assert type(routed.get_submodule(name)) is not torch.nn.Linear
    torch.testing.assert_close(y[real], expected[real], atol=2e-3, rtol=2e-3)


def test_generates(config, base, tmp_path):
    model, folder = base
    library = tiny.library(model, folder=tmp_path / "experts")
    routed = roster.load(folder, experts=library, router="arrow-mbc", quantization_config=config)
    ids, mask = tiny.padded(tiny.tokens(6, 4), "left")
    out = routed.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert out.shape == (2, 9)
