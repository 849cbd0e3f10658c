"""RegMean against NumPy's least squares, on matrices and on a whole model from the command line."""

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cli.conftest import refuse, succeed
from roster.errors import RosterError
from roster.merge import merge_tensors
from roster.merge.regmean import ROWS
from roster.weights import open_checkpoint
from roster.weights.grams import Grams
from roster.weights.texts import read_texts


def least_squares(inputs, weights, shares):
    """The W [O, I] that minimises the weighted mean squared distance to each model's answers."""
    scales = [np.sqrt(share / len(X)) for share, X in zip(shares, inputs, strict=True)]
    X = np.concatenate([s * each for s, each in zip(scales, inputs, strict=True)])
    Y = np.concatenate([s * each @ W.T for s, each, W in zip(scales, inputs, weights, strict=True)])
    return np.linalg.lstsq(X, Y, rcond=None)[0].T


@pytest.fixture
def problem():
    """Inputs of three models that live in different directions, and their matrices of more rows than a block."""
    generator = np.random.default_rng(1)
    inputs = [generator.standard_normal((50 + 9 * i, 11)) * generator.exponential(size=11) for i in range(3)]
    return inputs, [generator.standard_normal((2 * ROWS + 5, 11)) for _ in range(3)]


def merged(problem, **settings):
    inputs, weights = problem
    grams = [torch.tensor(X.T @ X / len(X)) for X in inputs]
    found = merge_tensors("regmean", [torch.tensor(each) for each in weights], learned=grams, **settings)
    return found.numpy()


def test_equals_least_squares(problem):
    wanted = least_squares(*problem, [1, 1, 1])
    np.testing.assert_allclose(merged(problem, reduction=1), wanted, rtol=0, atol=1e-10)
    wanted = least_squares(*problem, [1, 3, 0.5])
    np.testing.assert_allclose(merged(problem, reduction=1, weight=[1, 3, 0.5]), wanted, rtol=0, atol=1e-10)
    mean = np.mean(problem[1], 0)
    assert np.abs(wanted - mean).max() > 0.1


def test_reduction_scales_what_is_off_the_diagonal(problem):
    inputs, weights = problem
    grams = [X.T @ X / len(X) for X in inputs]
    grams = [np.where(np.eye(11) > 0, G, 0.9 * G) for G in grams]
    wanted = sum(W @ G for W, G in zip(weights, grams, strict=True)) @ np.linalg.inv(sum(grams))
    np.testing.assert_allclose(merged(problem), wanted, rtol=0, atol=1e-10)
    diagonal = sum(W * np.diag(G) for W, G in zip(weights, grams, strict=True)) / sum(np.diag(G) for G in grams)
    np.testing.assert_allclose(merged(problem, reduction=0), diagonal, rtol=0, atol=1e-10)


def test_inputs_that_determine_nothing_are_refused(problem):
    inputs, weights = problem
    with pytest.raises(RosterError, match="undetermined"):
        merged(([each[:3] for each in inputs], weights), reduction=1)
    merged(([each[:3] for each in inputs], weights))


def test_the_matrices_are_those_of_what_layers_read(family):
    texts = read_texts(family / "d0.jsonl", family / "m0")
    grams = Grams(open_checkpoint(family / "m0"), texts, family / "known", "gram-0")
    told = []
    grams.gather(lambda done, count: told.append((done, count)))
    model = AutoModelForCausalLM.from_pretrained(family / "m0")
    seen = {}

    def look(name):
        return lambda module, given: seen.setdefault(name, []).append(given[0].detach()[0])

    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layers" in n}
    assert len(grams) == len(linears) == 14
    for name, module in linears.items():
        module.register_forward_pre_hook(look(name))
    for ids, mask in zip(texts.ids_BS, texts.mask_BS, strict=True):
        model(input_ids=ids[mask.bool()][None])
    for name, rows in seen.items():
        X = torch.cat(rows)
        assert len(X) == texts.tokens
        torch.testing.assert_close(grams.of(name).read(), X.T @ X / len(X), rtol=1e-4, atol=1e-5)
    assert grams.of("model.norm") is None
    # Query, key and value read the same, and so do gate and up: four matrices a layer.
    assert len(load_file(family / "known" / "gram-0-0000.safetensors")) == 4
    # A killed run: the first layer is there, the second is made; then nothing is left to do.
    assert told == [(1, 2), (2, 2)]
    first = (family / "known" / "gram-0-0000.safetensors").stat().st_mtime_ns
    (family / "known" / "gram-0-0001.safetensors").unlink()
    grams.gather()
    assert (family / "known" / "gram-0-0000.safetensors").stat().st_mtime_ns == first
    torch.testing.assert_close(grams.of(name).read(), X.T @ X / len(X), rtol=1e-4, atol=1e-5)
    grams.gather(lambda done, count: pytest.fail("all of it is there"))


def test_from_the_command_line(family, monkeypatch):
    monkeypatch.chdir(family)
    data = ["--data", "d0.jsonl", "--data", "d1.jsonl"]
    command = ["merge", "--method", "regmean", "--model", "m0", "--model", "m1", *data]
    planned = succeed(*command, "--plan")
    assert "what 14 linear layers of m0 read, from 10 rows" in planned
    succeed(*command, "--out", "merged", "--keep", "known", "--option", "reduction=1")
    tensors = [load_file(family / name / "model.safetensors") for name in ("m0", "m1", "merged")]
    found = 0
    for number in range(2):
        grams = [load_file(family / "known" / f"gram-{i}-{number:04d}.safetensors") for i in range(2)]
        for module, name in (("self_attn.o_proj", "self_attn.o_proj"), ("self_attn.q_proj", "self_attn.v_proj")):
            owner = f"model.layers.{number}.{module}"
            G = [each[owner].double() for each in grams]
            name = f"model.layers.{number}.{name}.weight"
            W = [each[name].double() for each in tensors]
            wanted = (W[0] @ G[0] + W[1] @ G[1]) @ torch.linalg.inv(G[0] + G[1])
            torch.testing.assert_close(W[2], wanted, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(W[2], (W[0] + W[1]) / 2, atol=1e-2)
            found += 1
    assert found == 4
    for name in ("model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight"):
        torch.testing.assert_close(tensors[2][name], (tensors[0][name] + tensors[1][name]) / 2)
    AutoModelForCausalLM.from_pretrained(family / "merged")


def test_too_few_tokens_are_refused_before_any_work(family, monkeypatch):
    monkeypatch.chdir(family)
    command = [
        "merge",
        "--method",
        "regmean",
        "--model",
        "m0",
        "--model",
        "m1",
        "--data",
        "d0.jsonl",
        "--out",
        "merged",
    ]
    said = refuse(*command, "--option", "reduction=1", "--rows", 8, "--length", 2)
    assert "inputs, and 32 tokens cannot determine it" in said
    assert not list(family.glob("*merged*"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_an_adapter_on_its_base_is_a_model_too(method, family, monkeypatch):
    """Asked with the adapter in it; two of the same come out as what PEFT merges."""
    monkeypatch.chdir(family)
    model = AutoModelForCausalLM.from_pretrained(family / "m0")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, each in adapted.named_parameters():
        if "lora_B" in name:
            each.data.normal_(std=0.3)
    for name in ("a", "same"):
        adapted.save_pretrained(family / name)
    command = ["merge", "--method", method, "--model", "m0+a", "--model", "m0+same", "--data", "d0.jsonl"]
    succeed(*command, "--dtype", "float32", "--keep", "known", "--out", "merged")
    wanted = adapted.merge_and_unload().state_dict()
    for name, each in load_file(family / "merged" / "model.safetensors").items():
        torch.testing.assert_close(each, wanted[name], rtol=1e-4, atol=1e-5)
    if method == "regmean":
        plain = Grams(open_checkpoint(family / "m0"), read_texts(family / "d0.jsonl", family / "m0"), family, "plain")
        plain.gather()
        name = "model.layers.1.mlp.gate_proj"
        own = load_file(family / "known" / "gram-0-0001.safetensors")[name]
        assert not torch.allclose(own, plain.of(name).read(), rtol=1e-2)
