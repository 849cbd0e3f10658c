"""Files that are missing, broken or inconsistent: one clear error each, with the file and the tensor in it."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

import tiny
from library import saved
from roster import RosterError
from roster.library import read_adapter
from roster.library.config import CONFIG
from roster.library.examples import read_examples
from roster.library.reading import WEIGHTS

A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"


def refuses(folder, match):
    with pytest.raises(RosterError, match=match) as caught:
        read_adapter(folder)
    assert str(folder) in str(caught.value)


def test_no_config(tmp_path):
    refuses(tmp_path, f"is not an adapter: it has no {CONFIG}")


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "\udcff"])
def test_config_is_no_object(text, adapter_folder):
    (adapter_folder / CONFIG).write_bytes(text.encode("utf-8", "surrogateescape"))
    refuses(adapter_folder, "is not JSON|must hold an object")


def test_no_weights(adapter_folder):
    (adapter_folder / WEIGHTS).unlink()
    refuses(adapter_folder, f"but no {WEIGHTS}")


class Bomb:
    """Goes off when a pickle of it is loaded."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was loaded')",))


def test_pickles_are_never_loaded(adapter_folder):
    (adapter_folder / WEIGHTS).unlink()
    (adapter_folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    refuses(adapter_folder, "pickle, which roster never loads.*convert")


def test_pickle_under_the_name_of_safetensors(adapter_folder):
    (adapter_folder / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    refuses(adapter_folder, "is damaged")


@pytest.mark.parametrize("keep", [0, 5, 40, 0.5, -1])
def test_truncated(keep, adapter_folder):
    path = adapter_folder / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    refuses(adapter_folder, f"{WEIGHTS}' is damaged")


def test_random_bytes(adapter_folder):
    (adapter_folder / WEIGHTS).write_bytes(bytes(range(256)) * 8)
    refuses(adapter_folder, "is damaged")


def test_no_tensors(adapter_folder):
    save_file({}, adapter_folder / WEIGHTS)
    refuses(adapter_folder, "holds no tensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value, adapter_folder):
    saved.edit_tensors(adapter_folder, lambda tensors: tensors[B][0].fill_(value))
    refuses(adapter_folder, f"tensor '{B}' holds values that are not finite")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_not_floating(dtype, adapter_folder):
    saved.edit_tensors(adapter_folder, lambda tensors: tensors.update({A: tensors[A].to(dtype)}))
    refuses(adapter_folder, f"tensor '{A}' is {dtype}")


@pytest.mark.parametrize(("key", "factor"), [(A, "lora_A"), (B, "lora_B")])
def test_half_a_pair(key, factor, adapter_folder):
    saved.edit_tensors(adapter_folder, lambda tensors: tensors.pop(key))
    refuses(adapter_folder, f"module 'model.layers.0.self_attn.q_proj' has no {factor}")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "update of an embedding"),
        ("base_model.model.model.embed_tokens.weight", "save_embedding_layers=False"),
        ("base_model.model.lm_head.base_layer.weight", "save_embedding_layers=False"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", "DoRA"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", "lora_bias=False"),
        ("base_model.model.score.modules_to_save.weight", "modules_to_save=None"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", "raw state dict"),
        ("something.else", "neither lora_A nor lora_B"),
        ("lora_A.weight", "neither lora_A nor lora_B"),
    ],
)
def test_strange_tensors_are_refused_by_name(key, why, adapter_folder):
    saved.edit_tensors(adapter_folder, lambda tensors: tensors.update({key: torch.ones(2, 2)}))
    refuses(adapter_folder, f"roster does not read tensor '{key}': .*{why}")


def test_a_tensor_twice(adapter_folder):
    bare = A.removeprefix("base_model.model.")
    saved.edit_tensors(adapter_folder, lambda tensors: tensors.update({bare: tensors[A].clone()}))
    refuses(adapter_folder, "there twice")


def test_keys_without_the_prefix(adapter_folder):
    before = read_adapter(adapter_folder)
    strip = {key: key.removeprefix("base_model.model.") for key in (A, B)}
    saved.edit_tensors(adapter_folder, lambda tensors: [tensors.update({s: tensors.pop(k)}) for k, s in strip.items()])
    assert read_adapter(adapter_folder).weights_hash == before.weights_hash


@pytest.mark.parametrize("shapes", [([4, 32], [32, 3]), ([4], [32, 4]), ([4, 32, 1, 1], [32, 4, 1, 1])])
def test_shapes_that_do_not_multiply(shapes, adapter_folder):
    edit = {key: torch.ones(shape) for key, shape in zip((A, B), shapes, strict=True)}
    saved.edit_tensors(adapter_folder, lambda tensors: tensors.update(edit))
    with pytest.raises(RosterError) as caught:
        read_adapter(adapter_folder)
    assert all(text in str(caught.value) for text in (str(shapes[0]), str(shapes[1]), "q_proj", WEIGHTS))


@pytest.mark.parametrize("fields", [{"r": 5}, {"rank_pattern": {"q_proj": 2}}])
def test_the_config_gives_another_rank(fields, adapter_folder):
    saved.edit_config(adapter_folder, **fields)
    refuses(adapter_folder, r"lora_A.weight' is \[4, 32\], but adapter_config.json gives it rank [52]: expected \[")


def test_tensors_that_peft_would_ignore(adapter_folder):
    """Weights of one run with the config of another."""
    saved.edit_config(adapter_folder, target_modules=["v_proj"])
    refuses(adapter_folder, r"q_proj.*target_modules=\['v_proj'\].*PEFT would ignore it")


@pytest.mark.parametrize("field", [{"lora_alpha": 9}, {"use_rslora": True}, {"alpha_pattern": {"v_proj": 1}}])
def test_the_scale_is_part_of_the_hash(field, adapter_folder):
    before = read_adapter(adapter_folder).weights_hash
    saved.edit_config(adapter_folder, **field)
    assert read_adapter(adapter_folder).weights_hash != before


def test_the_layout_is_not_part_of_the_hash(adapter_folder):
    before = read_adapter(adapter_folder).weights_hash
    saved.edit_tensors(adapter_folder, lambda tensors: tensors.update({"tmp": torch.ones(1)}) or tensors.pop("tmp"))
    config = json.loads((adapter_folder / CONFIG).read_text())
    (adapter_folder / CONFIG).write_text(json.dumps(dict(reversed(config.items()))))
    assert read_adapter(adapter_folder).weights_hash == before


def test_an_adapter_of_the_head_says_how_to_save_it(tmp_path):
    """PEFT adds the base's own embeddings to such a file."""
    model = saved.peft_model(tiny.base(), target_modules=["q_proj", "lm_head"])
    model.save_pretrained(tmp_path / "auto")
    refuses(tmp_path / "auto", "save_embedding_layers=False")
    model.save_pretrained(tmp_path / "plain", save_embedding_layers=False)
    assert "lm_head" in read_adapter(tmp_path / "plain").modules


def test_examples_that_are_no_text(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_bytes(b'{"expert": "a", "prompt": "\xff"}\n')
    with pytest.raises(RosterError, match="is not UTF-8 text"):
        read_examples(path)
    with pytest.raises(RosterError, match="there is no file of examples"):
        read_examples(tmp_path / "missing.jsonl")
