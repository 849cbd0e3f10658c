"""Fisher-weighted averaging: its closed form, gradients from autograd, and the whole way from the command line."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM

from cli.conftest import refuse, succeed
from merge.conftest import lines
from roster.errors import RosterError
from roster.merge import merge_tensors, parse_config, plan_merge
from roster.merge.learning import Data, prepare
from roster.weights import open_checkpoint
from roster.weights.diagonals import Diagonal
from roster.weights.texts import as_texts, read_texts


def test_equals_the_closed_form():
    generator = np.random.default_rng(0)
    models = generator.standard_normal((3, 7, 5))
    known = generator.exponential(size=(3, 7, 5)) ** 3
    known[:, 0, 0] = 0  # nobody's answers depend on it: the mean
    known[1:, 0, 1] = 0  # the first alone knows
    weights = np.array([1.0, 2.0, 0.5])[:, None, None]
    wanted = (weights * known * models).sum(0) / np.maximum((weights * known).sum(0), 1e-30)
    wanted[0, 0] = (weights * models).sum(0)[0, 0] / 3.5
    wanted[0, 1] = models[0, 0, 1]
    given = [torch.tensor(each) for each in models]
    found = merge_tensors(
        "fisher", given, learned=[torch.tensor(each) for each in known], weight=[1, 2, 0.5], floor=1e-20
    )
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9)


def test_needs_what_it_knows():
    pair = [torch.ones(2), torch.ones(2)]
    with pytest.raises(RosterError, match="needs `learned`"):
        merge_tensors("fisher", pair)
    with pytest.raises(RosterError, match="takes no `learned`"):
        merge_tensors("linear", pair, learned=pair, weight=1)


def row_gradients(model, ids):
    """Of the log-likelihood of one row, by name."""
    model.zero_grad()
    logits = model(input_ids=ids[None]).logits[0, :-1]
    log_softmax(logits, -1)[torch.arange(len(ids) - 1), ids[1:]].sum().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters()}


def test_the_empirical_diagonal_is_the_mean_of_squared_gradients(family):
    source = open_checkpoint(family / "m0")
    texts = read_texts(family / "d0.jsonl", family / "m0")
    diagonal = Diagonal(source, texts, family / "f.safetensors", labels="data", normalize=False)
    diagonal.gather()
    model = AutoModelForCausalLM.from_pretrained(family / "m0")
    wanted = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
    for ids, mask in zip(texts.ids_BS, texts.mask_BS, strict=True):
        for name, each in row_gradients(model, ids[mask.bool()]).items():
            wanted[name] += each**2 / len(texts.ids_BS)
    assert set(wanted) == set(diagonal.specs)
    for name, each in wanted.items():
        found = diagonal.read(name, 0, each.numel()).view(each.shape)
        torch.testing.assert_close(found, each, rtol=1e-4, atol=1e-6 * float(each.max()))
    scaled = Diagonal(source, texts, family / "f.safetensors", labels="data", normalize=True)
    whole = torch.cat([scaled.read(name, 0, each.numel()) for name, each in wanted.items()])
    assert abs(float(whole.double().square().mean().sqrt()) - 1) < 1e-4


def test_sampled_labels_give_the_expectation_over_the_models_own_answers(family):
    """Against the sum over the whole vocabulary, of one token behind one row; 200 draws are within 12 % of it."""
    source = open_checkpoint(family / "m0")
    ids = torch.tensor([9, 30, 17])
    model = AutoModelForCausalLM.from_pretrained(family / "m0")
    weight = model.model.layers[1].mlp.down_proj.weight
    logits = log_softmax(model(input_ids=ids[None]).logits[0, :-1], -1)
    wanted = torch.zeros_like(weight)
    for place in range(2):
        for word in range(logits.shape[-1]):
            (gradient,) = torch.autograd.grad(logits[place, word], weight, retain_graph=True)
            wanted += logits[place, word].exp().detach() * gradient**2
    diagonal = Diagonal(source, as_texts([ids.tolist()] * 200), family / "f.safetensors", normalize=False)
    diagonal.gather()
    found = diagonal.read("model.layers.1.mlp.down_proj.weight", 0, weight.numel()).view(weight.shape)
    assert float((found - wanted).norm() / wanted.norm()) < 0.12
    empirical = row_gradients(model, ids)["model.layers.1.mlp.down_proj.weight"] ** 2
    assert float((empirical - wanted).norm() / wanted.norm()) > 0.3


def test_a_killed_gathering_goes_on_and_comes_to_the_same_bits(family, monkeypatch):
    source = open_checkpoint(family / "m0")
    texts = read_texts(family / "d0.jsonl", family / "m0")
    Diagonal(source, texts, family / "whole.safetensors").gather()
    monkeypatch.setattr("roster.weights.kept.EVERY", 0.0)
    seen = []

    def kill(done, count):
        seen.append(done)
        if done == 4:
            raise KeyboardInterrupt

    half = Diagonal(source, texts, family / "half.safetensors")
    with pytest.raises(KeyboardInterrupt):
        half.gather(kill)
    half.gather(lambda done, count: seen.append(done))
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    one, other = load_file(family / "whole.safetensors"), load_file(family / "half.safetensors")
    assert all(torch.equal(each, other[name]) for name, each in one.items())
    # Other texts are another key: nothing is taken for what it is not.
    other_texts = read_texts(family / "d1.jsonl", family / "m0")
    seen.clear()
    Diagonal(source, other_texts, family / "half.safetensors").gather(lambda done, count: seen.append(done))
    assert seen == list(range(1, 11))


def test_from_the_command_line(family, monkeypatch):
    monkeypatch.chdir(family)
    command = [
        "merge",
        "--method",
        "fisher",
        "--model",
        "m0",
        "--model",
        "m1",
        "--data",
        "d0.jsonl",
        "--data",
        "d1.jsonl",
    ]
    planned = succeed(*command, "--plan")
    assert "learns first: the Fisher information of m0 from 10 rows" in planned
    assert "Fisher(m0, m1, the Fisher information of m0, the Fisher information of m1)" in planned
    assert not (family / ".learned").exists()
    succeed(*command, "--out", "merged", "--keep", "known")
    tensors = [load_file(family / name / "model.safetensors") for name in ("m0", "m1", "merged")]
    known = [load_file(family / "known" / f"fisher-{i}.safetensors") for i in range(2)]
    rms = [torch.cat([x.flatten() for x in each.values()]).double().square().mean().sqrt() for each in known]
    for name, found in tensors[2].items():
        first, second = ((each[name] / r).clamp(min=1e-6) for each, r in zip(known, rms, strict=True))
        wanted = (first * tensors[0][name] + second * tensors[1][name]) / (first + second)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    mean = (tensors[0]["model.norm.weight"] + tensors[1]["model.norm.weight"]) / 2
    assert not torch.allclose(tensors[2]["model.norm.weight"], mean, atol=1e-3)
    assert not (family / ".merged.learned").exists()
    AutoModelForCausalLM.from_pretrained(family / "merged")


def test_what_is_missing_is_said_before_any_work(family, monkeypatch):
    monkeypatch.chdir(family)
    command = ["merge", "--method", "fisher", "--model", "m0", "--model", "m1", "--out", "merged"]
    assert "learns from data: give --data" in refuse(*command)
    assert "no data file" in refuse(*command, "--data", "nowhere.jsonl") or "nowhere" in refuse(
        *command, "--data", "nowhere.jsonl"
    )
    lines(family / "few.jsonl", [{"text": "so few"}] * 3)
    assert "gives 3 rows" in refuse(*command, "--data", "few.jsonl")
    assert "given 3 times for 2 models" in refuse(*command, *["--data", "d0.jsonl"] * 3)
    assert "learns nothing from data" in refuse(
        "merge", "--method", "linear", "--model", "m0", "--data", "d0.jsonl", "--out", "x"
    )
    assert "did you mean 'labels'" in refuse(*command, "--data", "d0.jsonl", "--option", "lables=data")
    assert not list(family.glob("*merged*"))


def test_settings_of_the_learning_are_one_for_the_run(family):
    members = f"{{model: {family}/m0, parameters: {{labels: data}}}}, {{model: {family}/m1}}"
    text = f"merge_method: fisher\nmodels: [{members}]\n"
    config = parse_config(text)
    learned = prepare(config, Data([family / "d0.jsonl"], family / "known"))
    with pytest.raises(RosterError, match="'labels' is one for the whole run"):
        plan_merge(config, learned=learned)
    with pytest.raises(RosterError, match="learns from data"):
        plan_merge(parse_config(text.replace(", parameters: {labels: data}", "")))
