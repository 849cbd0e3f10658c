"""aTLAS against the same objective in plain torch, in parts too; and that it finds a mixture that was planted."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from cli.conftest import refuse, succeed
from merge.test_adamerging import parts
from roster.merge import parse_config
from roster.merge.composition import part_of
from roster.merge.learning import Data, prepare
from roster.weights.texts import read_texts

STEPS = 4


def learn(family, name, **settings):
    settings = {"steps": STEPS, "batch": 5, **settings}
    text = f"merge_method: atlas\nbase_model: {family}/b\nmodels: [{{model: {family}/m0}}, {{model: {family}/m1}}]\n"
    config = parse_config(text + f"parameters: {json.dumps(settings)}\n")
    prepare(config, Data([family / "d0.jsonl", family / "d1.jsonl"], family / name)).learn()
    return json.loads((family / name / "coefficients.json").read_text())


def mean_loss(model, composed, texts, rows):
    total, count = 0.0, 0
    for row in rows:
        ids = texts.ids_BS[row][texts.mask_BS[row].bool()]
        logits = functional_call(model, composed, kwargs={"input_ids": ids[None]}).logits[0]
        total = total + cross_entropy(logits[:-1], ids[1:], reduction="sum")
        count += len(ids) - 1
    return total / count


@pytest.mark.parametrize(("objective", "signs"), [("loss", (1, 1)), ("forget", (-1, 1))])
@pytest.mark.parametrize("count", [1, 3])
def test_equals_a_plain_optimisation_of_the_same_objective(family, objective, signs, count):
    table = learn(family, "known", objective=objective, parts=count)["coefficients"]
    model, weights, vectors = parts(family)
    texts = [read_texts(family / f"d{i}.jsonl", family / "b") for i in range(2)]
    part = {n: part_of(n, 0, w.numel(), count).view(w.shape) for n, w in weights.items()}
    a = torch.zeros(len(weights), count, 2, requires_grad=True)
    optimizer = torch.optim.AdamW([a], lr=0.1, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        for sign, each in zip(signs, texts, strict=True):
            composed = {
                n: w + sum(a[i, :, t][part[n]] * v[n] for t, v in enumerate(vectors))
                for i, (n, w) in enumerate(weights.items())
            }
            rows = torch.randperm(len(each.ids_BS), generator=generator)[:5]
            (sign * mean_loss(model, composed, each, rows)).backward()
        torch.nn.utils.clip_grad_norm_([a], 1.0)
        optimizer.step()
        schedule.step()
    found = torch.tensor([table[n] for n in weights])
    assert a.detach().abs().max() > 0.1
    assert (found - a.detach()).abs().median() < 1e-5
    torch.testing.assert_close(found, a.detach(), rtol=0, atol=5e-3)  # Adam divides by gradients that are nearly 0


def test_it_finds_the_vector_that_fits(family):
    """m0 is made to answer d0 well; its vector is taken, and the loss falls below the base's."""
    model = AutoModelForCausalLM.from_pretrained(family / "b")
    texts = read_texts(family / "d0.jsonl", family / "b")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        logits = model(input_ids=texts.ids_BS, attention_mask=texts.mask_BS).logits[:, :-1]
        real = texts.mask_BS[:, 1:].bool()
        cross_entropy(logits[real], texts.ids_BS[:, 1:][real]).backward()
        optimizer.step()
    save_file({n: w.detach() for n, w in model.named_parameters()}, family / "m0" / "model.safetensors")
    (family / "d1.jsonl").write_text((family / "d0.jsonl").read_text())
    told = learn(family, "known", block="model", steps=12, decay=0.0)
    (right, noise) = told["coefficients"]["model.norm.weight"][0]
    assert right > 0.25
    assert right > 2 * abs(noise)
    assert told["objective"]["after"] < told["objective"]["before"] - 0.5


def test_from_the_command_line(family, monkeypatch):
    monkeypatch.chdir(family)
    command = ["merge", "--method", "atlas", "--base", "b", "--model", "m0", "--model", "m1", "--data", "d0.jsonl"]
    succeed(*command, "--option", "steps=2", "--option", "parts=2", "--out", "merged")
    table = json.loads((family / "merged" / "coefficients.json").read_text())["coefficients"]
    base, *models, found = (load_file(family / each / "model.safetensors") for each in ("b", "m0", "m1", "merged"))
    for name, each in found.items():
        a, part = torch.tensor(table[name]), part_of(name, 0, each.numel(), 2).view(each.shape)
        wanted = base[name] + sum(a[:, t][part] * (m[name] - base[name]) for t, m in enumerate(models))
        torch.testing.assert_close(each, wanted, rtol=0, atol=1e-5)
    assert a.abs().min() > 0
    assert "reads --data twice" in refuse(*command, "--option", "objective=forget", "--out", "other")
    slices = (
        "merge_method: atlas\nbase_model: b\nslices: [{sources: [{model: m0, layer_range: [0, 1]}, "
        "{model: b, layer_range: [0, 1]}]}]\n"
    )
    (family / "slices.yaml").write_text(slices)
    assert "give models, not slices" in refuse("merge", "slices.yaml", "--data", "d0.jsonl", "--out", "other")
