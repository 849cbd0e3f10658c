"""Compression against plain transformers: what is written must load there and answer as the change in memory does."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from roster.compress import METHODS, as_texts, decide, make_method, open_mixture, plan_compress
from roster.compress.layers import calibrate
from roster.errors import RosterError
from roster.weights import run

FAMILIES = {
    "mixtral": ("Mixtral", {"num_local_experts": 6}),
    "qwen2_moe": ("Qwen2Moe", {"num_experts": 6, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40}),
    "qwen3_moe": (
        "Qwen3Moe",
        {"num_experts": 6, "moe_intermediate_size": 24, "head_dim": 8, "mlp_only_layers": [0], "norm_topk_prob": True},
    ),
    "olmoe": ("Olmoe", {"num_experts": 6}),
}
SIZES = {"reap": "4", "expert-use": "4", "ream": "4", "mc-smoe": "4", "uncurl": "4", "moe-pruner": "50%"}


def config(family, **settings):
    name, own = FAMILIES[family]
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
    return getattr(transformers, f"{name}Config")(**{**shape, **heads, **own, "num_experts_per_tok": 2, **settings})


def mixture(folder, family="mixtral", seed=0, **settings):
    """A random model under which experts differ, on disk and in memory."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config(family, **settings)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.2)
    model.save_pretrained(folder)
    return model


def fuse(folder, family):
    """The same checkpoint with experts in tensors of three axes, as transformers has them in memory."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")


def texts(rows=10, vocabulary=64):
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(5, 20, (rows,), generator=generator).tolist()
    return as_texts([torch.randint(1, vocabulary, (each,), generator=generator).tolist() for each in lengths])


def logits(model, ids=None):
    ids = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(1)) if ids is None else ids
    with torch.no_grad():
        return model(input_ids=ids).logits


def smaller(folder, out, slug, to=None, calibration=None, **options):
    """(decisions, method) of a run that wrote `out`."""
    opened = open_mixture(folder)
    method = make_method(slug, opened, to or SIZES[slug], options)
    calibration = calibration or texts()
    decisions = decide(method, opened, calibration)
    run(plan_compress(method, decisions, to or SIZES[slug], calibration), out)
    return decisions, method


def in_memory(folder, method, decisions):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for layer, decision in decisions.items():
        method.change(model.model.layers[layer].mlp, decision)
    return model


def reload(folder):
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"], report
    assert not report["unexpected_keys"], report
    assert not report["mismatched_keys"], report
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("slug", SIZES)
def test_what_is_written_answers_as_the_change_in_memory(tmp_path, slug, family):
    before = mixture(tmp_path / "before", family)
    decisions, method = smaller(tmp_path / "before", tmp_path / "after", slug)
    after = reload(tmp_path / "after")
    torch.testing.assert_close(logits(after), logits(in_memory(tmp_path / "before", method, decisions)))
    assert (logits(after) - logits(before)).abs().max() > 1e-3
    layers = 2 if family == "qwen3_moe" else 3
    assert len(decisions) == layers
    if slug != "moe-pruner":
        for name in ("num_local_experts", "num_experts"):
            assert getattr(after.config, name, 4) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_experts_are_read_as_the_same(tmp_path, family):
    for name in ("one", "fused"):
        mixture(tmp_path / name, family)
    fuse(tmp_path / "fused", family)
    for slug in ("reap", "ream", "moe-pruner"):
        for name in ("one", "fused"):
            smaller(tmp_path / name, tmp_path / f"{name}-{slug}", slug)
        one, fused = (load_file(tmp_path / f"{name}-{slug}" / "model.safetensors") for name in ("one", "fused"))
        assert one.keys() == fused.keys()
        for name, each in one.items():
            assert torch.equal(each, fused[name]), name


def test_half_the_experts_are_half_the_bytes_of_the_experts(tmp_path):
    mixture(tmp_path / "before")
    smaller(tmp_path / "before", tmp_path / "after", "reap", "50%")
    was, now = (load_file(tmp_path / each / "model.safetensors") for each in ("before", "after"))
    inside = [sum(v.nbytes for k, v in each.items() if "block_sparse_moe" in k) for each in (was, now)]
    assert inside[1] * 2 == inside[0]
    outside = [sum(v.nbytes for k, v in each.items() if "block_sparse_moe" not in k) for each in (was, now)]
    assert outside[0] == outside[1]


def test_a_size_in_bytes_is_kept(tmp_path):
    mixture(tmp_path / "before")
    whole = (tmp_path / "before" / "model.safetensors").stat().st_size
    for share in (0.9, 0.6):
        out = tmp_path / f"after{share}"
        smaller(tmp_path / "before", out, "expert-use", f"{int(whole * share / 1000)}KB")
        assert (out / "model.safetensors").stat().st_size <= whole * share
    with pytest.raises(RosterError, match="cannot be 1,000 bytes"):
        make_method("reap", open_mixture(tmp_path / "before"), "1KB")


def test_calibration_runs_what_transformers_runs(tmp_path):
    model = mixture(tmp_path / "before", "qwen2_moe")
    calibration, found = texts(), {}
    calibrate(open_mixture(tmp_path / "before"), calibration, lambda layer, seen, block: found.update({layer: seen}))
    with torch.no_grad():
        theirs = model(
            input_ids=calibration.ids_BS, attention_mask=calibration.mask_BS, output_router_logits=True
        ).router_logits
    real = calibration.mask_BS.bool().flatten()
    for layer, seen in found.items():
        torch.testing.assert_close(seen.logits_TE, theirs[layer][real], atol=2e-5, rtol=1e-4)
        assert seen.count_E.sum() == 2 * calibration.tokens
        chosen = theirs[layer][real].topk(2).indices
        assert torch.equal(seen.count_E.long(), torch.bincount(chosen.flatten(), minlength=6))


def test_reap_scores_are_the_mean_of_gate_times_norm(tmp_path):
    """By hooks on transformers' own block, expert by expert, in a loop of this test's own."""
    model = mixture(tmp_path / "before")
    calibration, found = texts(1), {}
    calibrate(open_mixture(tmp_path / "before"), calibration, lambda layer, seen, block: found.update({layer: seen}))
    inputs = {}
    block = model.model.layers[1].mlp
    block.register_forward_hook(lambda module, given, out: inputs.update(x=given[0]))
    logits(model, calibration.ids_BS)
    x = inputs["x"].flatten(0, 1)
    weight = (x @ block.gate.weight.T).softmax(-1)
    top, who = weight.topk(2)
    top = top / top.sum(-1, keepdim=True)
    for expert in range(6):
        token, slot = (who == expert).nonzero(as_tuple=True)
        gate, up = (x[token] @ block.experts.gate_up_proj[expert].T).chunk(2, -1)
        said = (torch.nn.functional.silu(gate) * up) @ block.experts.down_proj[expert].T
        expected = (top[token, slot] * said.norm(dim=-1)).mean() if len(token) else torch.tensor(0.0)
        torch.testing.assert_close(found[1].saliency_E[expert].float(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("slug", ["mc-smoe", "ream", "uncurl"])
def test_permuted_copies_merge_into_the_same_function(tmp_path, slug):
    """All experts of a layer are one expert with its hidden units in other orders: aligned, their mean is it."""
    model = mixture(tmp_path / "seed")
    generator = torch.Generator().manual_seed(0)
    for layer in model.model.layers:
        experts = layer.mlp.experts
        gate, up = experts.gate_up_proj.data[0].chunk(2)
        for expert in range(1, 6):
            order = torch.randperm(48, generator=generator)
            experts.gate_up_proj.data[expert] = torch.cat([gate[order], up[order]])
            experts.down_proj.data[expert] = experts.down_proj.data[0][:, order]
    model.save_pretrained(tmp_path / "before")
    smaller(tmp_path / "before", tmp_path / "after", slug, "1", **({"group": 8} if slug == "ream" else {}))
    apart = (logits(reload(tmp_path / "after")) - logits(model)).abs().max()
    assert apart < 1e-3, apart
    # Without alignment it would be another function: the plain means of the same matrices.
    weights = load_file(tmp_path / "before" / "model.safetensors")
    plain = {k: v for k, v in weights.items() if ".experts." not in k}
    for name in [each for each in weights if ".experts.0." in each]:
        same = [weights[name.replace(".experts.0.", f".experts.{e}.")] for e in range(6)]
        plain |= {name.replace(".experts.0.", f".experts.{e}."): torch.stack(same).mean(0) for e in range(6)}
    unaligned = transformers.MixtralForCausalLM.from_pretrained(None, config=model.config, state_dict=plain)
    assert (logits(unaligned) - logits(model)).abs().max() > 100 * apart


def test_global_budget_in_copies_is_the_published_function(tmp_path):
    """All rows of the router stay, members of a group share one matrix: written out, that is the authors' form."""
    mixture(tmp_path / "before")
    decisions, _ = smaller(tmp_path / "before", tmp_path / "after", "mc-smoe", budget="global", form="copies")
    counts = [len(each.figures["groups"]) for each in decisions.values()]
    assert sum(counts) == 4 * 3
    assert min(counts) >= 1
    now = load_file(tmp_path / "after" / "model.safetensors")
    was = load_file(tmp_path / "before" / "model.safetensors")
    for layer, decision in decisions.items():
        at = f"model.layers.{layer}.block_sparse_moe"
        assert torch.equal(now[f"{at}.gate.weight"], was[f"{at}.gate.weight"])
        for members in decision.figures["groups"]:
            first = now[f"{at}.experts.{members[0]}.w1.weight"]
            assert all(torch.equal(now[f"{at}.experts.{each}.w1.weight"], first) for each in members)


def test_low_rank_plus_sparse_of_full_rank_is_the_merged_mixture(tmp_path):
    mixture(tmp_path / "before")
    smaller(tmp_path / "before", tmp_path / "plain", "mc-smoe")
    smaller(tmp_path / "before", tmp_path / "full", "mc-smoe", rank=32)
    smaller(tmp_path / "before", tmp_path / "thin", "mc-smoe", rank=4, columns=0.25)
    plain, full, thin = (load_file(tmp_path / each / "model.safetensors") for each in ("plain", "full", "thin"))
    name = "model.layers.1.block_sparse_moe.experts.0.w1.weight"
    torch.testing.assert_close(plain[name], full[name], atol=1e-4, rtol=1e-3)
    apart = plain[name] - thin[name]
    exact = apart.abs().amax(0) < 1e-5
    assert exact.sum() == 8  # columns of the sparse part hold the matrix itself
    assert torch.linalg.matrix_rank(thin[name][:, ~exact], atol=1e-4) <= 4


@pytest.mark.parametrize("to", ["50%", "2:4"])
def test_pruned_rows_lose_the_weights_with_the_lowest_scores(tmp_path, to):
    mixture(tmp_path / "before")
    decisions, _ = smaller(tmp_path / "before", tmp_path / "after", "moe-pruner", to)
    was, now = (load_file(tmp_path / each / "model.safetensors") for each in ("before", "after"))
    for part, name in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
        for expert in range(6):
            name_of = f"model.layers.2.block_sparse_moe.experts.{expert}.{name}.weight"
            old, new, norm = was[name_of], now[name_of], decisions[2][expert][part]
            gone = new == 0
            assert torch.equal(new[~gone], old[~gone])
            score = (old.abs() * norm).view(-1, 4) if to == "2:4" else old.abs() * norm
            gone = gone.view(score.shape)
            assert (gone.sum(1) == score.shape[1] // 2).all()
            lowest_kept = score.masked_fill(gone, torch.inf).amin(1)
            assert (score.masked_fill(~gone, -1).amax(1) <= lowest_kept).all()
    same = [k for k in was if ".experts." not in k]
    assert all(torch.equal(was[k], now[k]) for k in same)


def test_gates_count_in_the_score_and_not_in_that_of_wanda(tmp_path):
    mixture(tmp_path / "before")
    opened, calibration = open_mixture(tmp_path / "before"), texts()
    norms = {}
    for score in ("gated", "wanda", "magnitude"):
        method = make_method("moe-pruner", opened, "50%", {"score": score})
        norms[score] = decide(method, opened, calibration)[0][0]["gate"]
    assert (norms["gated"] < norms["wanda"]).all()  # gates are below 1
    assert (norms["magnitude"] == 1).all()


def test_the_report_says_what_became_of_whom(tmp_path):
    mixture(tmp_path / "before")
    smaller(tmp_path / "before", tmp_path / "after", "reap")
    told = json.loads((tmp_path / "after" / "compress.json").read_text())
    assert told["method"] == "reap"
    assert told["calibration"]["tokens"] == texts().tokens
    kept = told["layers"]["1"]["kept"]
    scores = told["layers"]["1"]["scores"]
    assert sorted(scores, reverse=True)[:4] == sorted((scores[each] for each in kept), reverse=True)
    was, now = (load_file(tmp_path / each / "model.safetensors") for each in ("before", "after"))
    for new, old in enumerate(kept):
        name = "model.layers.1.block_sparse_moe.experts.{}.w2.weight"
        assert torch.equal(now[name.format(new)], was[name.format(old)])
    assert torch.equal(
        now["model.layers.1.block_sparse_moe.gate.weight"], was["model.layers.1.block_sparse_moe.gate.weight"][kept]
    )


def test_what_cannot_be_is_refused_before_any_work(tmp_path):
    mixture(tmp_path / "before")
    opened = open_mixture(tmp_path / "before")
    for slug, to, options, message in (
        ("reap", "6", {}, "leaves 6 of 6 experts"),
        ("reap", "0%", {}, "leaves 0 of 6"),
        ("reap", "half", {}, "is not a size"),
        ("raep", "4", {}, "did you mean 'reap'"),
        ("reap", "4", {"budget": "global"}, "no option 'budget'"),
        ("ream", "4", {"group": "many"}, "group='many'"),
        ("mc-smoe", "4", {"budget": "global"}, "nearest: budget=uniform"),
        ("mc-smoe", "4", {"store": "factored"}, "nearest: store=dense"),
        ("mone", "4", {}, "place for constant experts.*nearest: reap"),
        ("moe-pruner", "4", {}, "write 50% or 2:4"),
    ):
        with pytest.raises(RosterError, match=message):
            make_method(slug, opened, to, options)
    transformers.LlamaConfig(hidden_size=32).save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "model.safetensors").write_bytes((tmp_path / "before" / "model.safetensors").read_bytes())
    with pytest.raises(RosterError, match="'llama' model"):
        open_mixture(tmp_path / "dense")
    weights = load_file(tmp_path / "before" / "model.safetensors")
    del weights["model.layers.1.block_sparse_moe.experts.3.w2.weight"]
    save_file(weights, tmp_path / "before" / "model.safetensors")
    with pytest.raises(RosterError, match=r"lacks the tensor .*experts\.3\.w2"):
        open_mixture(tmp_path / "before")


def test_damaged_weights_are_refused_and_nothing_is_written(tmp_path):
    mixture(tmp_path / "before")
    file = tmp_path / "before" / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.self_attn.q_proj.weight"][0, 0] = torch.nan
    save_file(weights, file)
    with pytest.raises(RosterError, match=r"layer 1 of .* not finite"):
        smaller(tmp_path / "before", tmp_path / "after", "reap")
    weights["model.layers.0.block_sparse_moe.experts.0.w2.weight"][0, 0] = torch.nan
    save_file(weights, file)
    for method in METHODS:
        with pytest.raises(RosterError, match=r"layer 0 of .* not finite"):
            smaller(tmp_path / "before", tmp_path / "after", method)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RosterError, match="truncated"):
        open_mixture(tmp_path / "before")
    assert not (tmp_path / "after").exists()


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    mixture(tmp_path / "before")
    smaller(tmp_path / "before", tmp_path / "whole", "mc-smoe")
    opened, done = open_mixture(tmp_path / "before"), []

    def plan():
        method = make_method("mc-smoe", opened, "4")
        return plan_compress(method, decide(method, opened, texts()), "4", texts())

    def kill(written, total, name):
        done.append(name)
        if written > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan(), tmp_path / "after", progress=kill)
    assert not (tmp_path / "after").exists()
    left = []
    run(plan(), tmp_path / "after", progress=lambda written, total, name: left.append(name))
    assert done
    assert not set(done) & set(left)
    for name in ("model.safetensors", "config.json", "compress.json"):
        assert (tmp_path / "after" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_every_method_is_tested_here():
    assert METHODS.keys() == SIZES.keys()
