"""Conversions that know domains: against plain transformers, and against what was planted."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tiny
from convert.test_carved import dense, last_hidden
from convert.test_convert import IDS, carried_out
from roster.convert import prove
from roster.convert.dense import open_dense
from roster.convert.methods import Asked, plan_convert
from roster.convert.nexus import fit_projection, plan_append, plan_nexus, project
from roster.convert.read_me import cut_by_use, plan_read_me, together
from roster.errors import RosterError
from roster.weights import open_checkpoint
from roster.weights.texts import as_texts


def domains(count=2, rows=6):
    """Texts of words of their own: every domain has a part of the vocabulary."""
    generator = torch.Generator().manual_seed(5)
    part = 96 // (count + 1)
    made = []
    for number in range(count):
        lengths = torch.randint(8, 20, (rows,), generator=generator).tolist()
        at = number * part
        made.append(as_texts([torch.randint(at + 1, at + part, (n,), generator=generator).tolist() for n in lengths]))
    return made


def test_read_me_of_all_units_is_the_dense_model(tmp_path):
    """With nearly all units in every mask, and experts filled up, nothing is left out."""
    before = dense(tmp_path / "dense")
    plan = plan_read_me(open_dense(before), domains(), share=47 / 48)
    proof = prove(before, carried_out(plan, tmp_path / "made"), IDS)
    assert proof.exact, proof.text()


def test_read_me_keeps_what_is_common_on_and_sends_domains_to_their_own(tmp_path):
    before = open_dense(dense(tmp_path / "dense"))
    made = carried_out(plan_read_me(before, domains(), share=0.5), tmp_path / "made")
    model, report = AutoModelForCausalLM.from_pretrained(made, output_loading_info=True)
    assert not report["missing_keys"], report
    both, domain_T = together(domains())
    with torch.no_grad():
        routers = model(input_ids=both.ids_BS, attention_mask=both.mask_BS, output_router_logits=True).router_logits
    chosen = routers[0].argmax(-1)[both.mask_BS.bool().flatten()]
    assert (chosen == domain_T).double().mean() > 0.9


def test_units_are_cut_by_use():
    used = {0: torch.tensor([[9.0, 8, 7, 6, 1, 2, 3, 0], [9.0, 8, 1, 2, 7, 6, 3, 0]])}
    used[1] = torch.tensor([[9.0, 8, 7, 6, 1, 2, 3, 0], [9.0, 8, 7, 1, 2, 6, 3, 0]])
    cuts = cut_by_use(used, 4, dict.fromkeys(used, torch.zeros(2, 4)), step=1)
    # Layer 1 has three units in common and one each beside them; layer 0 two and two.
    assert cuts[1].always == [0, 1, 2]
    assert len(cuts[0].always) == 3
    assert {0, 1} < set(cuts[0].always)
    assert [len(each) for cut in cuts.values() for each in cut.experts] == [2, 2, 2, 2]
    assert 3 in cuts[1].experts[0]
    assert 5 in cuts[1].experts[1]
    assert all(not set(cut.always) & set(each) for cut in cuts.values() for each in cut.experts)


def test_nexus_answers_as_its_parts_do(tmp_path):
    """Qwen2-MoE's block, reloaded, against the equation: the seed's block, and the best one times its probability."""
    folders = [dense(tmp_path / f"m{seed}", seed) for seed in range(3)]
    made = carried_out(plan_nexus([open_dense(each) for each in folders], domains(), steps=60), tmp_path / "made")
    model = AutoModelForCausalLM.from_pretrained(made).eval()
    models = [AutoModelForCausalLM.from_pretrained(each).eval() for each in folders]
    x_TD = torch.randn(1, 30, 32, generator=torch.Generator().manual_seed(0))
    block = model.model.layers[1].mlp
    with torch.no_grad():
        blocks = [each.model.layers[1].mlp(x_TD)[0] for each in models]
        probability, who = (x_TD[0] @ block.gate.weight.T).softmax(-1).max(-1)
        routed = torch.where(who[:, None] == 0, blocks[1], blocks[2])
        torch.testing.assert_close(block(x_TD)[0], blocks[0] + probability[:, None] * routed, atol=1e-5, rtol=1e-4)
    was, now = [load_file(each / "model.safetensors") for each in folders], load_file(made / "model.safetensors")
    name = "model.layers.0.self_attn.o_proj.weight"
    torch.testing.assert_close(now[name], torch.stack([each[name] for each in was]).mean(0))
    kept = load_file(made / "nexus.safetensors")
    own = {each: kept[f"1.{each}"] for each in ("first", "gate", "second")}
    torch.testing.assert_close(project(own, kept["described_ED"]), now["model.layers.1.mlp.gate.weight"])


def test_an_appended_expert_gets_its_row_by_its_description_and_the_rest_its_mean(tmp_path):
    folders = [dense(tmp_path / f"m{seed}", seed) for seed in range(4)]
    three = domains(3)
    opened = [open_dense(each) for each in folders]
    made = carried_out(plan_nexus(opened[:3], three[:2], steps=30), tmp_path / "made")
    more = carried_out(plan_append(open_checkpoint(made), opened[0], opened[3], three[2]), tmp_path / "more")
    model, report = AutoModelForCausalLM.from_pretrained(more, output_loading_info=True)
    assert not report["missing_keys"], report
    assert model.config.num_experts == 3
    was, now = load_file(made / "model.safetensors"), load_file(more / "model.safetensors")
    router = "model.layers.0.mlp.gate.weight"
    assert torch.equal(now[router][:2], was[router])
    new = load_file(folders[3] / "model.safetensors")
    assert torch.equal(now["model.layers.1.mlp.experts.2.up_proj.weight"], new["model.layers.1.mlp.up_proj.weight"])
    all_of_them = [load_file(each / "model.safetensors") for each in folders]
    name = "model.embed_tokens.weight"
    torch.testing.assert_close(
        now[name], torch.stack([each[name] for each in all_of_them]).mean(0), atol=1e-6, rtol=1e-5
    )
    hidden = last_hidden(folders[0], three[2].ids_BS)  # right padding changes nothing before it
    described = torch.nn.functional.normalize(hidden[three[2].mask_BS.bool()].mean(0), dim=-1)
    kept = load_file(more / "nexus.safetensors")
    torch.testing.assert_close(kept["described_ED"][2], described, atol=1e-5, rtol=1e-4)
    own = {each: kept[f"0.{each}"] for each in ("first", "gate", "second")}
    torch.testing.assert_close(project(own, described[None])[0], now[router][2], atol=1e-4, rtol=1e-3)


def test_a_projection_learns_to_name_the_domain():
    generator = torch.Generator().manual_seed(0)
    centre_ED = torch.randn(3, 32, generator=generator)
    domain_T = torch.randint(3, (600,), generator=generator)
    x_TD = centre_ED[domain_T] + torch.randn(600, 32, generator=generator)
    described_ED = torch.nn.functional.normalize(torch.randn(3, 32, generator=generator), dim=-1)
    own = fit_projection(x_TD, domain_T, described_ED, 16, 100, 1e-2, 0)
    right = (x_TD @ project(own, described_ED).T).argmax(-1) == domain_T
    assert right.double().mean() > 0.95


def test_from_files_and_what_is_refused(tmp_path):
    files = []
    for name, text in (("a", "some words of one kind"), ("b", "1 2 3 4 5 6")):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(json.dumps({"text": text}) for _ in range(3)), encoding="utf-8")
        files.append(file)
    models = [dense(tmp_path / f"m{seed}", seed, vocab_size=259) for seed in range(3)]
    for each in models:
        tiny.chat_tokenizer(None).save_pretrained(each)
    names = [str(each) for each in models]
    assert plan_convert(Asked("read-me", names[:1], files)).outputs
    made = carried_out(plan_convert(Asked("nexus", names, files), {"steps": 2}), tmp_path / "nexus")
    assert plan_convert(Asked("nexus", [str(made), names[0], names[1]], files[:1])).outputs
    for to, given, data, options, message in (
        ("read-me", names[:1], files[:1], {}, "at least two domains, not 1"),
        ("read-me", names[:1], files, {"router": "global"}, "no stock architecture; nearest: router=layers"),
        ("read-me", names[:1], files, {"container": "mixtral"}, "no shared expert"),
        ("read-me", names[:1], files, {"share": 1.0}, "take some away"),
        ("nexus", names[:2], files[:1], {}, "at least two models of domains"),
        ("nexus", names, files[:1], {}, "2, not 1"),
        ("nexus", [str(made), names[0]], files[:1], {}, "to append an expert"),
        ("cmoe", names[:1], files, {}, "one --data file, not 2"),
        ("btx", names, files, {}, "reads no --data"),
    ):
        with pytest.raises(RosterError, match=message):
            plan_convert(Asked(to, given, data), options)
    with pytest.raises(RosterError, match=r"has no nexus\.safetensors"):
        plan_append(open_checkpoint(models[0]), open_dense(models[0]), open_dense(models[1]), domains()[0])
