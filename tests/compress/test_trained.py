"""Unlearning by one expert and distillation by all of them, on small random mixtures of transformers."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import tiny
from compress.test_smaller import in_memory, logits, mixture, reload, texts
from roster.compress import forget, open_mixture
from roster.compress.distilling import Settings as Distilled
from roster.compress.distilling import all_but_one, distil, find_blocks, reverse_kl, routed, uneven
from roster.compress.trained import distil as distil_folder
from roster.compress.unlearning import Settings, attribute, plan_unlearned, unlearn
from roster.errors import RosterError
from roster.weights import run


def test_the_expert_with_the_largest_mean_weight_is_the_target(tmp_path):
    model = mixture(tmp_path / "before", "qwen2_moe")
    away = texts()
    target = attribute(open_mixture(tmp_path / "before"), away)
    with torch.no_grad():
        routers = model(input_ids=away.ids_BS, attention_mask=away.mask_BS, output_router_logits=True).router_logits
    real = away.mask_BS.bool().flatten()
    theirs = []
    for layer in routers:
        weight, who = layer[real].softmax(-1).topk(2)
        theirs.append(torch.zeros(6).scatter_add_(0, who.flatten(), weight.flatten()) / real.sum())
    theirs = torch.stack(theirs)
    torch.testing.assert_close(
        torch.tensor([target.affinity_LE[each] for each in range(3)]), theirs, atol=1e-5, rtol=1e-4
    )
    assert (target.layer, target.expert) == divmod(int(theirs.argmax()), 6)


def likelihood(model, of):
    labels = of.ids_BS.masked_fill(of.mask_BS == 0, -100)
    with torch.no_grad():
        return -model(input_ids=of.ids_BS, attention_mask=of.mask_BS, labels=labels).loss.item()


@pytest.mark.parametrize("loss", ["npo", "ga"])
@pytest.mark.parametrize("family", ["mixtral", "olmoe"])
def test_one_expert_and_its_router_forget_and_nothing_else_moves(tmp_path, loss, family):
    mixture(tmp_path / "before", family)
    opened, away, keep = open_mixture(tmp_path / "before"), texts(6), texts(12)
    target = attribute(opened, away)
    model = in_memory(tmp_path / "before", None, {})
    before = likelihood(model, away)
    unlearn(model, target, away, keep, Settings(loss=loss, steps=12, rate=3e-3, batch=6, keep=0.1))
    assert likelihood(model, away) < before - 0.05
    run(plan_unlearned(opened, model, target, {}), tmp_path / "after")
    torch.testing.assert_close(logits(reload(tmp_path / "after")), logits(model))
    was, now = (load_file(tmp_path / each / "model.safetensors") for each in ("before", "after"))
    moved = {name for name in was if not torch.equal(was[name], now[name])}
    at = "block_sparse_moe" if family == "mixtral" else "mlp"
    own = f"model.layers.{target.layer}.{at}"
    assert moved == {name for name in was if name.startswith(f"{own}.experts.{target.expert}.")} | {
        f"{own}.gate.weight"
    }


def test_the_anchor_keeps_the_router_on_the_target(tmp_path):
    mixture(tmp_path / "before")
    opened, away, keep = open_mixture(tmp_path / "before"), texts(6), texts(12)
    target, share = attribute(opened, away), {}
    for anchor in (0.0, 10.0):
        model = in_memory(tmp_path / "before", None, {})
        unlearn(model, target, away, keep, Settings(steps=15, rate=1e-2, anchor=anchor))
        model.save_pretrained(tmp_path / f"after{anchor}")
        share[anchor] = attribute(open_mixture(tmp_path / f"after{anchor}"), away).affinity_LE[target.layer][
            target.expert
        ]
    assert share[10.0] > share[0.0] + 0.1, share


def test_forgetting_from_files(tmp_path):
    mixture(tmp_path / "before", vocab_size=259)
    tiny.chat_tokenizer(None).save_pretrained(tmp_path / "before")
    (tmp_path / "away.jsonl").write_text(json.dumps({"prompt": "who is it", "answer": " him"}) + "\n")
    (tmp_path / "keep.jsonl").write_text(json.dumps({"text": "what stays, stays"}) + "\n")
    files = (tmp_path / "away.jsonl", tmp_path / "keep.jsonl")
    target = forget(tmp_path / "before", tmp_path / "after", *files, steps=2)
    told = json.loads((tmp_path / "after" / "compress.json").read_text())
    assert (told["layer"], told["expert"]) == (target.layer, target.expert)
    with pytest.raises(RosterError, match="did you mean 'anchor'"):
        forget(tmp_path / "before", tmp_path / "again", *files, ancor=1.0)
    with pytest.raises(RosterError, match="did you mean 'npo'"):
        forget(tmp_path / "before", tmp_path / "again", *files, loss="np")


def plain(folder, k):
    """The model as transformers computes it with so many experts a token."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, num_experts_per_tok=k).eval()


@pytest.mark.parametrize("k", [5, 6])
def test_all_experts_and_all_but_one_are_what_transformers_makes_of_them(tmp_path, k):
    """Mixtral's softmax over the chosen is the method's; `num_experts_per_tok` says how many."""
    mixture(tmp_path / "before")
    model = in_memory(tmp_path / "before", None, {})
    choose = all_but_one(0.0, torch.Generator()) if k == 5 else lambda x: torch.arange(6).expand(len(x), -1)
    with routed(find_blocks(model), choose) as found:
        ours = logits(model)
    torch.testing.assert_close(ours, logits(plain(tmp_path / "before", k)), atol=1e-4, rtol=1e-4)
    assert len(found) == 3
    torch.testing.assert_close(logits(model), logits(plain(tmp_path / "before", 2)))  # as it was, afterwards


def test_drawn_experts_follow_the_router():
    generator = torch.Generator().manual_seed(0)
    probability = torch.tensor([0.6, 0.3, 0.1])
    chosen = all_but_one(1.0, generator)(probability.log().expand(20000, -1))
    # Two of three without replacement: the third is left out with the probability that the sequences say.
    left_out = 1 - torch.nn.functional.one_hot(chosen, 3).sum(1).double().mean(0)
    p = probability.double()
    expected = torch.stack(
        [sum(p[i] * p[j] / (1 - p[i]) for i in range(3) for j in range(3) if len({i, j, e}) == 3) for e in range(3)]
    )
    torch.testing.assert_close(left_out, expected, atol=0.015, rtol=0)


def test_reverse_kl_is_that_of_torch():
    student, teacher = torch.randn(2, 2, 5, 7)
    written = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]])
    p, q = (torch.distributions.Categorical(logits=each[:, :-1]) for each in (student, teacher))
    apart = torch.distributions.kl_divergence(p, q)[written[:, 1:].bool()].mean()
    torch.testing.assert_close(reverse_kl(student, teacher, written), apart)
    assert uneven(torch.zeros(4, 3), torch.ones(1, 4)) == 0


@pytest.mark.parametrize("mode", ["sar", "ka", "all", "top-k"])
def test_a_student_comes_nearer_and_only_routers_of_the_teacher_may_move(tmp_path, mode):
    mixture(tmp_path / "teacher", initializer_range=0.02)
    teacher = in_memory(tmp_path / "teacher", None, {})
    before = {name: each.clone() for name, each in teacher.state_dict().items()}
    torch.manual_seed(1)
    small = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, pad_token_id=0
    )
    student = transformers.LlamaForCausalLM(small)
    prompts = [row[mask.bool()].tolist() for row, mask in zip(texts().ids_BS, texts().mask_BS, strict=True)]
    settings = Distilled(mode=mode, steps=24, rate=1e-2, router_rate=1e-2, tokens=8, batch=6)
    told = distil(teacher, student, prompts, settings)
    assert len(told) == 24
    assert sum(told[-6:]) < 0.9 * sum(told[:6]), told
    moved = {name for name, each in teacher.state_dict().items() if not torch.equal(each, before[name])}
    assert moved == ({name for name in before if name.endswith("gate.weight")} if mode == "sar" else set())


def test_a_student_on_disk_is_a_plain_model(tmp_path):
    mixture(tmp_path / "teacher", vocab_size=259)
    tiny.chat_tokenizer(None).save_pretrained(tmp_path / "teacher")
    tiny.chat_base().save_pretrained(tmp_path / "student")
    (tmp_path / "data.jsonl").write_text('{"text": "say this"}\n{"prompt": "and that"}\n')
    at = (tmp_path / "teacher", tmp_path / "out", tmp_path / "student", tmp_path / "data.jsonl")
    told = distil_folder(*at, steps=2, tokens=4)
    assert len(told) == 2
    after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not torch.equal(after.lm_head.weight, tiny.chat_base().lm_head.weight)
    with pytest.raises(RosterError, match="is there already"):
        distil_folder(*at, steps=2)
    with pytest.raises(RosterError, match="did you mean 'sar'"):
        Distilled(mode="sarr")
    other = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=32, hidden_size=8, intermediate_size=8, num_attention_heads=2, num_hidden_layers=1
        )
    )
    with pytest.raises(RosterError, match="the same words: 64 and 32"):
        distil(mixture(tmp_path / "m"), other, [[1]], Distilled())
    with pytest.raises(RosterError, match="no teacher"):
        distil(other, other, [[1]], Distilled())
