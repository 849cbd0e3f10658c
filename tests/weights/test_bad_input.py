"""What is wrong is known from the headers, named, and nothing is written."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from roster.errors import RosterError
from roster.merge import merge_models, parse_config, plan_merge
from roster.weights import Copy, Operand, Output, make_plan, open_checkpoint, run
from weights.conftest import tensors, write


def text(folder, top="", one="", method="linear", parameters="weight: 1"):
    return (
        f"merge_method: {method}\n{top}\nparameters: {{{parameters}}}\n"
        f"models: [{{model: {folder}/m0{one}}}, {{model: {folder}/m1}}]\n"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"top": "merge_methd: linear"}, "unknown key 'merge_methd': did you mean 'merge_method'"),
        ({"top": "base_modle: x"}, "did you mean 'base_model'"),
        ({"parameters": "weight: 1, densty: 0.05"}, "no parameter 'densty'"),
        ({"one": ", paramters: {weight: 1}"}, "did you mean 'parameters'"),
        ({"method": "tiess"}, "did you mean 'ties'"),
        ({"method": "ties"}, "needs a base"),
        ({"parameters": ""}, "needs the parameter 'weight'"),
        ({"parameters": "weight: heavy"}, "weight='heavy' must be a number"),
        ({"parameters": "weight: [{filter: mlpp, value: 1}, {value: 2}]"}, "filter 'mlpp'"),
        ({"top": "dtype: bfloat61"}, "did you mean 'bfloat16'"),
        ({"top": "dtype: float32\ndtype: float16"}, "'dtype' is there twice"),
        ({"one": ", parameters: {normalize: false}"}, "one for all models"),
        ({"top": "tokenizer_source: union"}, "not supported"),
    ],
)
def test_a_wrong_config(change, says, models, tmp_path):
    models()
    with pytest.raises(RosterError, match=says):
        plan_merge(parse_config(text(tmp_path, **change)))


def refused(tmp_path, says, config=None):
    with pytest.raises(RosterError, match=says):
        run(plan_merge(parse_config(config or text(tmp_path))), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_vocabularies_of_different_sizes(models, tmp_path):
    models()
    write(tmp_path / "m1", tensors("m1", vocabulary=70))
    refused(tmp_path, "vocabularies differ")


def test_vocabularies_of_one_size_with_other_words(models, tmp_path):
    models()
    for name, words in (("m0", {"a": 0, "b": 1}), ("m1", {"b": 0, "a": 1})):
        (tmp_path / name / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}}))
    refused(tmp_path, "different vocabularies")
    plan_merge(parse_config(text(tmp_path, top=f"tokenizer_source: {tmp_path}/m0")))


def test_weights_tied_in_one_model_only(models, tmp_path):
    models()
    write(tmp_path / "m1", {**tensors("m1"), "lm_head.weight": torch.zeros(64, 40)})
    refused(tmp_path, "ties its head")


def test_types_that_differ(models, tmp_path):
    models()
    write(tmp_path / "m1", tensors("m1", torch.bfloat16))
    refused(tmp_path, "say which type")
    plan_merge(parse_config(text(tmp_path, top="dtype: bfloat16")))


def test_weights_that_are_not_finite(models, tmp_path):
    values = models()["m1"]
    values["model.layers.0.mlp.down_proj.weight"][400, 5] = float("nan")
    write(tmp_path / "m1", values)
    refused(tmp_path, "'model.layers.0.mlp.down_proj.weight' of .*m1' holds values that are not finite")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_copied_weights_that_are_not_finite(dtype, tmp_path):
    """Found while they are written; what was written goes, as no other run could finish it."""
    values = {"a": torch.full((300, 400), 60_000.0, dtype=dtype), "b": torch.ones(300, 400, dtype=dtype)}
    values["b"][7, 3] = float("inf")
    source = open_checkpoint(write(tmp_path / "m", values))
    outputs = [Output(f"{i}{n}", s, (Operand(source, n),), Copy()) for i in "xy" for n, s in source.specs.items()]
    with pytest.raises(RosterError, match=r"'b' of .* holds values that are not finite"):
        run(make_plan(outputs, [source]), tmp_path / "out")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m"]
    whole = [each for each in outputs if each.operands[0].tensor == "a"]
    run(make_plan(whole, [source]), tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["xa"], values["a"])


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp"])
def test_a_base_that_is_not_the_models(method, models, tmp_path):
    """Models that are far from their base pass all the same."""
    models()
    write(tmp_path / "other", tensors("another"))
    settings = {"t": 0.5} if method == "slerp" else {"weight": 0.5, **({"density": 0.5} if method == "ties" else {})}
    with pytest.raises(RosterError, match=r"m0' does not look as if it was made of '.*other': the cosine of [\d,]+ of"):
        merge_models(method, [tmp_path / "m0"], tmp_path / "out", base=tmp_path / "other", **settings)
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".*out*"))
    merge_models(method, [tmp_path / "m0"], tmp_path / "out", base=tmp_path / "b", **settings)
    write(tmp_path / "far", {name: value + 10 * torch.randn(value.shape) for name, value in tensors("b").items()})
    merge_models(method, [tmp_path / "far"], tmp_path / "far-out", base=tmp_path / "b", **settings)


def test_large_finite_weights_are_not_taken_for_infinite(models, tmp_path):
    models()
    for name in ("m0", "m1"):
        write(tmp_path / name, {"w": torch.full((300, 400), 3e38)})
    run(plan_merge(parse_config(text(tmp_path))), tmp_path / "out")


def test_a_truncated_file(models, tmp_path):
    models()
    file = tmp_path / "m1" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(tmp_path, "is truncated")


def test_no_safetensors_at_all(models, tmp_path):
    models()
    (tmp_path / "m1" / "model.safetensors").write_bytes(b"hello")
    refused(tmp_path, "no safetensors file")
    (tmp_path / "m1" / "model.safetensors").rename(tmp_path / "m1" / "pytorch_model.bin")
    refused(tmp_path, "pickles")


def test_a_name_twice_in_a_header(tmp_path):
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f'{{"w":{entry},"w":{entry}}}'.encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(RosterError, match="'w' is there twice"):
        open_checkpoint(file)


def test_shards(tmp_path):
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.zeros(2)}, tmp_path / "1.safetensors")
    with pytest.raises(RosterError, match=r"lacks the shard '2\.safetensors'"):
        open_checkpoint(tmp_path)
    save_file({"a": torch.zeros(2), "b": torch.ones(2)}, tmp_path / "2.safetensors")
    with pytest.raises(RosterError, match="in both"):
        open_checkpoint(tmp_path)
    save_file({"b": torch.ones(2)}, tmp_path / "2.safetensors")
    assert open_checkpoint(tmp_path).read("b", 0, 2).tolist() == [1, 1]


def test_a_gradient_and_filters_are_mergekits(models, tmp_path):
    """Three layers: 0, 1/2 and 1 along a gradient; filters by substring, the first that matches."""
    models()
    weight = "weight: [{filter: up_proj, value: [1, 3]}, {value: 7}]"
    plan = plan_merge(parse_config(text(tmp_path, parameters=weight)))
    found = {output.name: output.kernel.weight[0] for output in plan.outputs}
    assert [found[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(3)] == [1, 2, 3]
    assert found["model.norm.weight"] == found["model.layers.1.input_layernorm.weight"] == 7


def test_slices_put_layers_on_top_of_each_other(models, tmp_path):
    values = models()
    config = f"""
merge_method: passthrough
slices:
  - sources: [{{model: {tmp_path}/m0, layer_range: [0, 2]}}]
  - sources: [{{model: {tmp_path}/m1, layer_range: [1, 3]}}]
"""
    run(plan_merge(parse_config(config)), tmp_path / "out")
    out = open_checkpoint(tmp_path / "out")
    for layer, (name, old) in enumerate([("m0", 0), ("m0", 1), ("m1", 1), ("m1", 2)]):
        found = out.read(f"model.layers.{layer}.mlp.up_proj.weight", 0, 3200)
        assert torch.equal(found, values[name][f"model.layers.{old}.mlp.up_proj.weight"].flatten())
    assert torch.equal(out.read("model.norm.weight", 0, 40), values["m1"]["model.norm.weight"])
    assert out.config["num_hidden_layers"] == 4
    with pytest.raises(RosterError, match="has 3 layers"):
        plan_merge(parse_config(config.replace("[1, 3]", "[2, 4]")))
