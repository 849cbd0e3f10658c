"""AdaMerging against the same objective written in plain torch, and whether entropy really falls."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.distributions import Categorical
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from cli.conftest import refuse, succeed
from roster.merge import merge_tensors, parse_config
from roster.merge.composition import part_of
from roster.merge.learning import Data, prepare
from roster.weights.kept import read_all
from roster.weights.texts import read_texts

LAST = 6


def config(family, **settings):
    return parse_config(
        f"merge_method: adamerging\nbase_model: {family}/b\nmodels: [{{model: {family}/m0}}, {{model: {family}/m1}}]\n"
        f"parameters: {json.dumps(settings)}\n"
    )


def learn(family, name, files=("d0.jsonl", "d1.jsonl"), progress=None, **settings):
    settings = {"steps": LAST, "batch": 4, "rate": 0.05, **settings}
    learned = prepare(config(family, **settings), Data([family / each for each in files], family / name))
    learned.learn(progress)
    table = json.loads((family / name / "coefficients.json").read_text())
    return learned, table


def parts(family):
    """The model, its weights, task vectors and texts, loaded by transformers and safetensors."""
    model = AutoModelForCausalLM.from_pretrained(family / "b")
    weights = dict(model.named_parameters())
    vectors = []
    for each in ("m0", "m1"):
        other = load_file(family / each / "model.safetensors")
        vectors.append({name: other[name] - w.detach() for name, w in weights.items()})
    return model, {n: w.detach() for n, w in weights.items()}, vectors


def mean_entropy(model, weights, vectors, a, texts, rows):
    """By functional_call and torch.distributions; `a` by (model, tensor), each row by itself."""
    composed = {
        name: w + sum(a[t, i].clamp(0, 1) * v[name] for t, v in enumerate(vectors))
        for i, (name, w) in enumerate(weights.items())
    }
    found = []
    for row in rows:
        ids = texts.ids_BS[row][texts.mask_BS[row].bool()]
        logits = functional_call(model, composed, kwargs={"input_ids": ids[None]}).logits[0]
        found.append(Categorical(logits=logits).entropy())
    return torch.cat(found).mean()


@pytest.mark.parametrize("start", [0.3, 0.02])
def test_equals_a_plain_optimisation_of_the_same_objective(family, start):
    """Near 0 some coefficients reach the bound, where they stay."""
    table = learn(family, "known", start=start)[1]
    model, weights, vectors = parts(family)
    texts = [read_texts(family / f"d{i}.jsonl", family / "b") for i in range(2)]
    a = torch.full((2, len(weights)), start, requires_grad=True)
    optimizer = torch.optim.Adam([a], lr=0.05)
    for step in range(LAST):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        for each in texts:
            rows = torch.randperm(len(each.ids_BS), generator=generator)[:4]
            mean_entropy(model, weights, vectors, a, each, rows).backward()
        optimizer.step()
    wanted = a.detach().clamp(0, 1)
    found = torch.tensor([[table["coefficients"][name][0][t] for name in weights] for t in range(2)])
    assert (wanted - start).abs().max() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)  # Adam divides by gradients that are nearly 0
    assert (found - wanted).abs().median() < 1e-5


def test_entropy_falls(family):
    told = []
    table = learn(family, "known", steps=30, batch=8, progress=lambda *each: told.append(each))[1]
    before, after = (table["objective"][each] for each in ("before", "after"))
    assert after < before - 0.02
    assert told[-1] == ("coefficients, steps", 30, 30)
    model, weights, vectors = parts(family)
    texts = [read_texts(family / f"d{i}.jsonl", family / "b") for i in range(2)]
    a = torch.tensor([[table["coefficients"][name][0][t] for name in weights] for t in range(2)])
    for values, wanted in ((torch.full_like(a, 0.3), before), (a, after)):
        # Batches of 8 and of 2 rows weigh the same in what is reported.
        cuts = [range(8), range(8, 10)]
        found = sum(mean_entropy(model, weights, vectors, values, t, rows) for t in texts for rows in cuts) / 2
        assert abs(float(found) - wanted) < 1e-3


@pytest.mark.parametrize(("block", "count"), [("model", 1), ("layer", 3)])
def test_blocks_share_a_coefficient(family, block, count):
    table = learn(family, "known", block=block, steps=2)[1]["coefficients"]
    assert len({json.dumps(each) for each in table.values()}) == count
    assert table["model.layers.0.mlp.up_proj.weight"] == table["model.layers.0.input_layernorm.weight"]


def test_a_killed_training_goes_on_and_comes_to_the_same_bits(family, monkeypatch):
    learn(family, "whole")
    monkeypatch.setattr("roster.weights.kept.EVERY", 0.0)
    seen = []

    def kill(what, done, count):
        seen.append(done)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(family, "half", progress=kill)
    learn(family, "half", progress=lambda what, done, count: seen.append(done))
    assert seen == [1, 2, 3, 4, 5, 6]
    found = [read_all(family / each / "coefficients.safetensors")["coefficients"] for each in ("whole", "half")]
    assert torch.equal(*found)


def test_the_kernel_adds_what_the_coefficients_say():
    base, *models = torch.randn(3, 40, 30, dtype=torch.float64)
    found = merge_tensors("adamerging", models, base, learned=[torch.tensor([0.2]), torch.tensor([-0.7])])
    torch.testing.assert_close(found, base + 0.2 * (models[0] - base) - 0.7 * (models[1] - base))
    table = [torch.tensor([0.2, 0.9, 0.4]), torch.tensor([1.0, 0.0, -1.0])]
    found = merge_tensors("adamerging", models, base, learned=table, name="w")
    part = part_of("w", 0, base.numel(), 3).view(base.shape)
    assert part.bincount(minlength=3).min() > 300 if part.dim() == 1 else part.flatten().bincount().min() > 300
    wanted = base + sum(a.double()[part] * (m - base) for a, m in zip(table, models, strict=True))
    torch.testing.assert_close(found, wanted)


def test_from_the_command_line(family, monkeypatch):
    monkeypatch.chdir(family)
    command = ["merge", "--method", "adamerging", "--base", "b", "--model", "m0", "--model", "m1", "--data", "d0.jsonl"]
    command += ["--option", "steps=2", "--option", "batch=4", "--option", "rate=0.1"]
    assert "20 coefficients for each of 2 models by entropy of 10 rows" in succeed(*command, "--plan")
    succeed(*command, "--out", "merged")
    table = json.loads((family / "merged" / "coefficients.json").read_text())
    base, *models, found = (load_file(family / each / "model.safetensors") for each in ("b", "m0", "m1", "merged"))
    for name, each in found.items():
        a = table["coefficients"][name][0]
        wanted = base[name] + sum(w * (m[name] - base[name]) for w, m in zip(a, models, strict=True))
        torch.testing.assert_close(each, wanted, rtol=0, atol=1e-5)
        assert a != [0.3, 0.3]
    assert "batch=16, but 10 rows" in refuse(*command[:-6], "--out", "other")
    assert "needs a base" in refuse(*(each for each in command if each not in ("--base", "b")), "--out", "other")
