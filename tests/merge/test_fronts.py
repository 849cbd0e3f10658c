"""PaMaL and PaLoRA: what rays compose, what a step is, whether fronts are in order; and the command line."""

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import mse_loss
from transformers import AutoModelForCausalLM

from cli.conftest import refuse, succeed
from roster.errors import RosterError
from roster.merge import merge_models
from roster.merge.fronts import composed, disorder, next_token, train
from roster.merge.palora import Adapted, annealed
from roster.merge.pamal import Members, dirichlet
from roster.weights.texts import read_texts

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(2))
Y = [X @ torch.randn(5, 3, generator=torch.Generator().manual_seed(3 + task)) for task in range(2)]


def tasks():
    """Two that want different answers to the same questions."""
    return [lambda call, step, y=y: mse_loss(call(X), y) for y in Y]


def perceptron(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))


def along(front, count=11):
    """[count, T] losses at rays from one end to the other."""
    shares = torch.linspace(0, 1, count)
    with torch.no_grad():
        found = [[task(composed(front, torch.stack([a, 1 - a])), 0) for task in tasks()] for a in shares]
    return shares.numpy(), np.array(found)


def volume(losses, reference):
    """Of what a front of two losses dominates below the reference."""
    best, found = reference[1], 0.0
    for first, second in sorted(map(tuple, losses)):
        if first < reference[0] and second < best:
            found += (reference[0] - first) * (best - second)
            best = second
    return found


def test_the_ends_of_members_are_the_members():
    members = [perceptron(0), perceptron(1)]
    front = Members(members)
    for number, member in enumerate(members):
        ray = torch.eye(2)[number]
        assert torch.equal(composed(front, ray)(X), member(X))
    middle = front.weights(torch.tensor([0.25, 0.75]))
    for name, each in members[0].named_parameters():
        torch.testing.assert_close(middle[name], 0.25 * each + 0.75 * members[1].get_parameter(name))
    with pytest.raises(RosterError, match="one architecture"):
        Members([perceptron(), nn.Linear(5, 3)])


def test_a_ray_of_adapters_is_pefts_sum():
    front = Adapted(perceptron(), ["0", "2"], 2, rank=2, scale=1.0)
    for each in front.B:
        nn.init.normal_(each)
    ray = torch.tensor([0.3, 0.7])
    inner = nn.Sequential(*perceptron())
    model = peft.get_peft_model(inner, peft.LoraConfig(r=2, lora_alpha=1, target_modules=["0", "2"]), adapter_name="t0")
    model.add_adapter("t1", peft.LoraConfig(r=2, lora_alpha=1, target_modules=["0", "2"]))
    for at, name in enumerate(("0", "2")):
        layer = model.base_model.model.get_submodule(name)
        for task in range(2):
            layer.lora_A[f"t{task}"].weight.data = front.A[at][task].detach().clone()
            layer.lora_B[f"t{task}"].weight.data = front.B[at][task].detach().clone()
    model.add_weighted_adapter(["t0", "t1"], ray.tolist(), "both", combination_type="cat")
    model.set_adapter("both")
    torch.testing.assert_close(composed(front, ray)(X), model(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["members", "adapters"])
def test_a_step_is_that_of_the_weighted_losses(kind):
    """Against the same sum over rays and tasks, written out, and torch's own SGD."""
    rays = torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1]])
    fronts = []
    for _ in range(2):
        if kind == "members":
            fronts.append(Members([perceptron(0), perceptron(1)]))
        else:
            fronts.append(Adapted(perceptron(), ["0", "2"], 2, rank=2))
            for each in fronts[-1].B:
                nn.init.constant_(each, 0.2)
    groups = fronts[0].groups(0.1) if kind == "adapters" else fronts[0].parameters()
    train(fronts[0], tasks(), lambda step, g: rays, torch.optim.SGD(groups, lr=0.1), 1, mean=kind == "adapters")
    other = fronts[1]
    loss = sum(r[t] * mse_loss(composed(other, r)(X), Y[t]) for r in rays for t in range(2))
    (loss / 3 if kind == "adapters" else loss).backward()
    for (name, found), (_, start) in zip(fronts[0].named_parameters(), other.named_parameters(), strict=True):
        rate = 0.2 if name.startswith(("A", "B")) else 0.1
        torch.testing.assert_close(found, start - rate * start.grad, rtol=1e-4, atol=1e-6)


def test_losses_out_of_order_are_what_the_term_says():
    rays = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    right = torch.tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    assert float(disorder(rays, right)) == 0
    assert float(disorder(rays[[1, 0, 2]], right[[1, 0, 2]])) == 0
    wrong = torch.tensor([[2.5, 3.0], [2.0, 2.0], [3.0, 1.0]])
    expected = np.log((np.exp(2 * 0.5) + 1) / 2)
    np.testing.assert_allclose(float(disorder(rays, wrong, temperature=2)), expected, rtol=1e-6)


def test_a_front_of_members_is_in_order_and_beats_members_trained_apart():
    front = Members([perceptron(0), perceptron(1)])
    rays = dirichlet(2, 4, 1.0)
    train(front, tasks(), rays, torch.optim.Adam(front.parameters(), lr=1e-2), 250, order=1.0)
    shares, losses = along(front)
    for task, sign in ((0, 1), (1, -1)):
        assert spearmanr(sign * shares, losses[:, task])[0] <= -0.95
    apart = [perceptron(0), perceptron(1)]
    for task, member in enumerate(apart):
        optimizer = torch.optim.Adam(member.parameters(), lr=1e-2)
        for _ in range(250):
            optimizer.zero_grad()
            mse_loss(member(X), Y[task]).backward()
            optimizer.step()
    reference = losses.max(0) * 1.05
    assert volume(losses, reference) > 1.05 * volume(along(Members(apart))[1], reference)


def test_a_front_of_adapters_is_in_order():
    front = Adapted(perceptron(), ["0", "2"], 2, rank=2)
    rays = annealed(2, 300, 5, 0.01, 5.0)
    train(front, tasks(), rays, torch.optim.Adam(front.groups(1e-2)), 300, mean=True)
    losses = along(front)[1]
    steps = np.diff(losses, axis=0) * np.array([1, -1])
    assert (steps > 1e-4).sum() <= 1  # falling for the first task, growing for the second
    assert losses[0, 0] > 3 * losses[-1, 0]


def test_rays_begin_at_the_centre_and_end_at_the_corners():
    rays = annealed(2, 10, 5, 0.01, 5.0)
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(rays(0, generator), torch.full((5, 2), 0.5))
    last = rays(9, generator)
    torch.testing.assert_close(last.sum(1), torch.ones(5))
    assert last[0, 1] > 1 - 1e-6
    x = 0.01 + 0.98 / 4
    torch.testing.assert_close(last[1, 0], torch.tensor(x**5 / (x**5 + (1 - x) ** 5)))
    assert annealed(3, 10, 6, 0.01, 5.0)(5, generator).shape == (6, 3)


def test_members_from_the_command_line(family, monkeypatch):
    monkeypatch.chdir(family)
    start = ["merge", "--method", "pamal", "--model", "m0", "--model", "m1"]
    texts = ["--data", "d0.jsonl", "--data", "d1.jsonl"]
    options = ["--option", "steps=2", "--option", "rays=2", "--option", "rate=0.001"]
    assert "wrote front" in succeed(*start, *texts, *options, "--out", "front")
    succeed("merge", "--method", "linear", "--model", "front/member-0", "--model", "front/member-1", "--out", "mix",
            "--option", "weight=[0.25, 0.75]")  # fmt: skip
    one, two, mix, begun = (
        load_file(family / each / "model.safetensors") for each in ("front/member-0", "front/member-1", "mix", "m0")
    )
    for name, each in mix.items():
        torch.testing.assert_close(each, 0.25 * one[name] + 0.75 * two[name])
        assert not torch.equal(one[name], begun[name])
    AutoModelForCausalLM.from_pretrained(family / "mix")
    assert "is there already" in refuse(*start, *texts, *options, "--out", "front")
    assert "one --data and one --model a task" in refuse(*start, *texts[:2], "--out", "other")
    assert "has no base" in refuse(*start, *texts, "--out", "other", "--base", "b")
    assert "no parameter 'step'" in refuse(*start, *texts, "--out", "other", "--option", "step=3")
    assert "batch=99" in refuse(*start, *texts, "--out", "other", "--option", "batch=99")
    assert "makes a folder of models" in refuse(*start, *texts, "--out", "other", "--eval", "d0.jsonl")
    assert not (family / "other").exists()


def test_one_model_is_where_all_members_start(family, monkeypatch):
    monkeypatch.chdir(family)
    merge_models("pamal", ["m0"], "front", data=["d0.jsonl", "d1.jsonl"], steps=0)
    begun = load_file("m0/model.safetensors")
    for number in range(2):
        found = load_file(f"front/member-{number}/model.safetensors")
        assert all(torch.equal(each, begun[name]) for name, each in found.items())


def test_adapters_from_the_command_line(family, monkeypatch):
    monkeypatch.chdir(family)
    command = ["merge", "--method", "palora", "--base", "b", "--data", "d0.jsonl", "--data", "d1.jsonl"]
    command += ["--option", "steps=3", "--option", "rate=0.003", "--option", "rank=2", "--out", "front"]
    assert "wrote front" in succeed(*command)
    fold = ["merge", "--method", "task_arithmetic", "--base", "front/model", "--option", "weight=[0.3, 0.7]"]
    fold += [word for t in range(2) for word in ("--model", f"front/model+front/task-{t}")]
    succeed(*fold, "--out", "folded")
    model = load_file(family / "front" / "model" / "model.safetensors")
    folded = load_file(family / "folded" / "model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    wanted = model[f"{name}.weight"].clone()
    for ray, task in zip((0.3, 0.7), (0, 1), strict=True):
        tensors = load_file(family / "front" / f"task-{task}" / "adapter_model.safetensors")
        A, B = (tensors[f"base_model.model.{name}.lora_{each}.weight"] for each in "AB")
        assert B.abs().max() > 0
        wanted += ray * 0.5 * B @ A
    torch.testing.assert_close(folded[f"{name}.weight"], wanted, rtol=1e-4, atol=1e-6)
    assert not torch.equal(
        model["model.norm.weight"], load_file(family / "b" / "model.safetensors")["model.norm.weight"]
    )
    assert "leave out models" in refuse(*command[:-1], "other", "--model", "m0")
    assert "gives fewer rows" in refuse(*command[:-1], "other", "--option", "batch=99")


def test_the_task_of_saying_texts_is_transformers_loss(family):
    model = AutoModelForCausalLM.from_pretrained(family / "b")
    texts = read_texts(family / "d0.jsonl", family / "b")
    labels = texts.ids_BS.masked_fill(texts.mask_BS == 0, -100)
    wanted = model(input_ids=texts.ids_BS, attention_mask=texts.mask_BS, labels=labels).loss
    torch.testing.assert_close(next_token(texts, 10, 0)(model, 0), wanted)
