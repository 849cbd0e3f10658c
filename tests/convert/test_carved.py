"""Dense blocks carved into experts, containers with a shared expert, routers by prompts: against plain transformers."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import tiny
from convert.test_convert import IDS, carried_out, config
from roster.convert import plan_cmoe, plan_factorllm, plan_gated, plan_upcycling, prove, read_gate_config
from roster.convert.cmoe import deal
from roster.convert.dense import open_dense
from roster.convert.factorllm import apart
from roster.convert.fitting import at_blocks, fit_rows
from roster.convert.methods import METHODS, Asked, plan_convert
from roster.errors import RosterError
from roster.weights import run
from roster.weights.texts import as_texts


def dense(folder, seed=0, **settings):
    torch.manual_seed(seed)
    LlamaForCausalLM(config(**settings)).save_pretrained(folder)
    return folder


def texts(rows=12):
    generator = torch.Generator().manual_seed(3)
    return as_texts(torch.randint(1, 96, (rows, 20), generator=generator).tolist())


def last_hidden(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder).eval().model
    model.norm = torch.nn.Identity()
    with torch.no_grad():
        return model(input_ids=ids).last_hidden_state


@pytest.mark.parametrize("container", ["qwen2-moe", "granite-moe-shared"])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_containers_with_a_shared_expert_hold_the_dense_model(tmp_path, container, shards):
    before = dense(tmp_path / "dense", tie_word_embeddings=shards == 2)
    plan = plan_upcycling(open_dense(before), copies=4, shards=shards, groups=2, container=container)
    made = carried_out(plan, tmp_path / "made")
    proof = prove(before, made, IDS)
    assert proof.exact, proof.text()
    _, report = AutoModelForCausalLM.from_pretrained(made, output_loading_info=True)
    assert not report["missing_keys"], report
    assert not report["unexpected_keys"], report


@pytest.mark.parametrize("container", ["qwen2-moe", "granite-moe-shared"])
def test_cmoe_with_all_experts_on_is_the_dense_model(tmp_path, container):
    before = dense(tmp_path / "dense")
    plan = plan_cmoe(open_dense(before), texts(), experts=6, shared=2, active=4, container=container)
    proof = prove(before, carried_out(plan, tmp_path / "made"), IDS)
    assert proof.exact, proof.text()


def test_factorllm_with_all_slices_on_is_the_dense_model(tmp_path):
    before = dense(tmp_path / "dense")
    plan = plan_factorllm(open_dense(before), texts(), experts=4, top_k=4)
    proof = prove(before, carried_out(plan, tmp_path / "made"), IDS)
    assert proof.exact, proof.text()


@pytest.mark.parametrize("method", ["cmoe", "factorllm"])
def test_what_is_written_is_what_later_layers_were_shown(tmp_path, method, monkeypatch):
    """The output of the last carved layer, as calibration saw it, is that of the written model."""
    before, seen = open_dense(dense(tmp_path / "dense")), {}
    module = f"roster.convert.{method}.at_blocks"

    def watched(*args, **named):
        seen["hidden"] = at_blocks(*args, **named)
        return seen["hidden"]

    monkeypatch.setattr(module, watched)
    plan = (
        plan_cmoe(before, texts(), experts=6, shared=1, active=2)
        if method == "cmoe"
        else plan_factorllm(before, texts(), 4, 2)
    )
    made = carried_out(plan, tmp_path / "made")
    torch.testing.assert_close(last_hidden(made, texts().ids_BS), seen["hidden"], atol=2e-3, rtol=2e-3)
    assert (last_hidden(tmp_path / "dense", texts().ids_BS) - seen["hidden"]).abs().max() > 0.1


def test_units_that_fire_together_come_together():
    """Marks planted: 4 units always, and three groups of 8 that fire on their own tokens."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(28, generator=generator)
    marks = torch.zeros(300, 28)
    for token in range(300):
        marks[token, order[:4]] = 1
        marks[token, order[4 + 8 * (token % 3) : 12 + 8 * (token % 3)]] = 1
    # The seeds are the next most marked units: one of each group is marked a little more.
    for group in range(3):
        marks[:10, order[4 + 8 * group]] = 1
    always, parts = deal(marks, 3, 4)
    assert sorted(always) == sorted(order[:4].tolist())
    planted = {tuple(sorted(order[4 + 8 * g : 12 + 8 * g].tolist())) for g in range(3)}
    assert {tuple(sorted(each)) for each in parts} == planted


def test_rows_are_fitted_to_a_choice_that_is_linear():
    generator = torch.Generator().manual_seed(0)
    true_ED, x_TD = torch.randn(6, 16, generator=generator), torch.randn(2000, 16, generator=generator)
    wanted = (x_TD @ true_ED.T).topk(2).indices
    target = torch.zeros(2000, 6).scatter_(1, wanted, 0.5)
    rows = fit_rows(x_TD, target)
    fresh = torch.randn(500, 16, generator=generator)
    agree = (fresh @ rows.T).topk(2).indices.sort(1).values == (fresh @ true_ED.T).topk(2).indices.sort(1).values
    assert agree.all(1).double().mean() > 0.85


def test_a_taught_router_comes_nearer_to_the_block_than_a_drawn_one(tmp_path):
    before = open_dense(dense(tmp_path / "dense"))
    losses = {}
    for router in ("taught", "random"):
        found = []

        def look(layer, block, x_TD, found=found):
            found.append((block, x_TD))

        plan = plan_factorllm(before, texts(64), 4, 2, router)
        made = carried_out(plan, tmp_path / router)
        rows = load_file(made / "model.safetensors")["model.layers.0.block_sparse_moe.gate.weight"]

        def measure(layer, block, x_TD, rows=rows, router=router):
            if layer == 0:
                parts = [list(range(at, at + 12)) for at in range(0, 48, 12)]
                near = apart(block, x_TD, parts, 0.5)
                losses[router] = near.gather(1, (x_TD @ rows.T).topk(2).indices).mean().item()

        at_blocks(before, texts(64), measure)
    assert losses["taught"] < losses["random"] * 0.97, losses


YAML = """
base_model: {base}
gate_mode: {mode}
experts_per_token: 2
architecture: {architecture}
experts:
  - source_model: {base}
    positive_prompts: ["class", "def function(x):"]
  - source_model: {other}
    positive_prompts: ["once upon a time"]
    negative_prompts: ["1 + 1"]
{shared}
"""


def gate_yaml(tmp_path, mode="hidden_avg", architecture="mixtral", shared=""):
    models = []
    for seed in range(2):
        folder = dense(tmp_path / f"m{seed}", seed, vocab_size=259)
        tiny.chat_tokenizer(None).save_pretrained(folder)
        models.append(folder)
    file = tmp_path / "moe.yaml"
    file.write_text(YAML.format(base=models[0], other=models[1], mode=mode, architecture=architecture, shared=shared))
    return file, models


@pytest.mark.parametrize("mode", ["hidden", "hidden_avg", "cheap_embed"])
def test_gates_are_what_transformers_says_of_the_prompts(tmp_path, mode):
    file, models = gate_yaml(tmp_path, mode)
    made = carried_out(plan_gated(read_gate_config(file)), tmp_path / "made")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(models[0]).eval(), tiny.chat_tokenizer(None)

    def felt(prompts):
        each = []
        for prompt in prompts:
            ids = torch.tensor([tokenizer("<s>" + prompt, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                hidden = torch.stack(model(ids, output_hidden_states=True).hidden_states[:-1])[:, 0]
            if mode == "cheap_embed":
                each.append(model.model.embed_tokens(ids)[0].sum(0).expand(2, -1))
            else:
                each.append(hidden.mean(1) if mode == "hidden_avg" else hidden[:, -1])
        total = torch.stack(each).sum(0)
        return torch.nn.functional.normalize(total, dim=-1) if mode == "cheap_embed" else total / len(prompts)

    rows = [felt(["class", "def function(x):"]), felt(["once upon a time"]) - felt(["1 + 1"])]
    rows = [torch.nn.functional.normalize(each, dim=-1) for each in rows]
    found = load_file(made / "model.safetensors")
    for layer in range(2):
        theirs = torch.stack([each[layer] for each in rows]).detach()
        ours = found[f"model.layers.{layer}.block_sparse_moe.gate.weight"]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        own = found[f"model.layers.{layer}.block_sparse_moe.experts.1.w3.weight"]
        assert torch.equal(own, load_file(models[1] / "model.safetensors")[name])
    attention = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(found[attention], load_file(models[0] / "model.safetensors")[attention])


def test_gates_of_chance_and_a_shared_expert(tmp_path):
    shared = f"shared_experts:\n  - source_model: {tmp_path / 'm0'}\n"
    file, models = gate_yaml(tmp_path, "random", "qwen", shared)
    made = carried_out(plan_gated(read_gate_config(file)), tmp_path / "made")
    _, report = AutoModelForCausalLM.from_pretrained(made, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]  # noqa: PT018
    found = load_file(made / "model.safetensors")
    down = load_file(models[0] / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(found["model.layers.1.mlp.shared_expert.down_proj.weight"], 2 * down)


def test_a_yaml_with_an_unknown_key_is_refused_with_the_nearest(tmp_path):
    file, _ = gate_yaml(tmp_path)
    text = file.read_text()
    for old, new, message in (
        ("gate_mode", "gate_mod", "unknown key 'gate_mod': did you mean 'gate_mode'"),
        ("negative_prompts", "negativ_prompts", "did you mean 'negative_prompts'"),
        ("hidden_avg", "hiden", "gate_mode"),
        ("mixtral", "mixtrl", "did you mean 'mixtral'"),
        ('    positive_prompts: ["once upon a time"]\n', "", "needs positive_prompts"),
        ("mixtral", "qwen", "has one shared expert"),
    ):
        file.write_text(text.replace(old, new))
        with pytest.raises(RosterError, match=message):
            plan_gated(read_gate_config(file))


def test_carvings_that_cannot_be_are_refused(tmp_path):
    before = str(dense(tmp_path / "dense"))
    for to, options, message in (
        ("cmoe", {"experts": 5}, "does not divide into 5"),
        ("cmoe", {"experts": 6, "shared": 5, "active": 2}, "nothing is left"),
        ("cmoe", {"experts": 6, "router": "analytical"}, "did you mean 'analytic'"),
        ("cmoe", {"experts": 6, "container": "mixtral"}, "no shared expert"),
        ("factorllm", {"experts": 5}, "does not divide into 5"),
        ("factorllm", {"top_k": 9}, "9 of 4 slices"),
        ("upcycling", {"container": "mixtrall"}, "did you mean 'mixtral'"),
        ("upcycling", {"copys": 4}, "did you mean 'copies'"),
        ("upcycling", {"copies": "four"}, "copies='four'"),
        ("btx", {"container": "qwen2-moe"}, "no option 'container'"),
        ("mergekit-moe", {}, "a YAML file"),
        ("upcyling", {}, "did you mean 'upcycling'"),
    ):
        asked = Asked(to, [before], progress=None)
        asked.texts = lambda dense: texts()
        with pytest.raises(RosterError, match=message):
            plan_convert(asked, options)
    folder = dense(tmp_path / "window")
    settings = json.loads((folder / "config.json").read_text()) | {"model_type": "mistral", "sliding_window": 8}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(RosterError, match="sliding window, which qwen2-moe"):
        plan_upcycling(open_dense(folder), container="qwen2-moe")


def test_a_killed_carving_goes_on_to_the_same_bits(tmp_path):
    before = open_dense(dense(tmp_path / "dense"))

    class Killed(Exception):
        pass

    def kill(done, total, name):
        if done > total / 2:
            raise Killed

    plan = plan_cmoe(before, texts(), experts=6)
    with pytest.raises(Killed):
        run(plan, tmp_path / "made", progress=kill)
    again = plan_cmoe(before, texts(), experts=6)
    assert again.fingerprint() == plan.fingerprint()
    run(again, tmp_path / "made")
    run(plan_cmoe(before, texts(), experts=6), tmp_path / "whole")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_every_conversion_is_listed():
    assert {"upcycling", "nemotron-upcycling", "btx", "cmoe", "factorllm", "mergekit-moe"} <= METHODS.keys()
