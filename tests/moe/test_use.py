"""Routed blocks in daily use: generation, activation checkpointing, Trainer, bf16, torch.compile, interrupted saves."""

import pytest
import torch
import transformers
from torch.utils.data import Dataset

import roster
import tiny
from moe.mixtures import given, mixture
from roster.moe import adopt, replace, writing
from roster.moe.replacing import routed_blocks
from roster.saving import MANIFEST
from roster.train.schedule import advance

NEW = 6


def replaced(recipe="gshard-top2", architecture="llama"):
    torch.manual_seed(0)
    model = replace(tiny.base(architecture), recipe).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    model.generation_config.eos_token_id = None
    return model


def adopted(name="mixtral", router=None):
    torch.manual_seed(0)
    model = adopt(mixture(name), router)
    model.generation_config.eos_token_id = None
    return model


MODELS = {
    "replaced": replaced,
    "replaced gpt2": lambda: replaced(architecture="gpt2"),
    "loss-free": lambda: replaced("loss-free-balancing"),
    "adopted": adopted,
    "adopted DeepSeek-V3": lambda: adopted("deepseek_v3"),
    "routed otherwise": lambda: adopted("qwen3_moe", "gshard-top2"),
}
each_model = pytest.mark.parametrize("kind", MODELS)
MODES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 5},
    "beam": {"do_sample": False, "num_beams": 3},
    "without a cache": {"do_sample": False, "use_cache": False},
}


@each_model
@pytest.mark.parametrize("mode", MODES)
def test_generation_is_the_full_forward_step_by_step(kind, mode):
    model = MODELS[kind]()
    ids, mask = tiny.padded(tiny.tokens(6, 4, seed=1), "left")
    torch.manual_seed(1)
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=NEW,
        output_logits=True,
        return_dict_in_generate=True,
        **MODES[mode],
    )
    assert out.sequences.shape == (2, ids.shape[1] + NEW)
    if mode == "beam":
        plain = model.generate(input_ids=ids[:1], max_new_tokens=NEW, **MODES[mode])
        assert torch.equal(plain, out.sequences[:1])  # a row's beams do not depend on the other row
        return
    mask = torch.cat([mask, torch.ones(2, NEW, dtype=torch.long)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        full = model(input_ids=out.sequences, attention_mask=mask, position_ids=positions, use_cache=False).logits
    steps = torch.stack(out.logits, dim=1)
    torch.testing.assert_close(steps, full[:, ids.shape[1] - 1 : -1], atol=1e-4, rtol=1e-3)


# The name that older versions of transformers know, too.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@each_model
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(kind, reentrant):
    model, inputs = MODELS[kind]().train(), given("mixtral")

    def gradients():
        model.zero_grad()
        torch.manual_seed(1)  # of dropout
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    loss, wanted = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    again, got = gradients()
    torch.testing.assert_close(again, loss)
    assert got.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(got[name], grad, atol=1e-6, rtol=1e-4)


@each_model
def test_bf16(kind):
    inputs = given("mixtral")
    with torch.no_grad():
        wanted = MODELS[kind]()(**inputs).logits
    model = MODELS[kind]().to(torch.bfloat16)
    out = model(**inputs)
    out.loss.backward()
    assert out.logits.dtype == torch.bfloat16
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    near = (out.logits.float() - wanted)[inputs["attention_mask"].bool()].abs().mean() / wanted.abs().mean()
    assert near < 0.2  # a token may choose otherwise; most do not


class Rows(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        ids = tiny.tokens(8, seed=index)[0]
        return {"input_ids": ids, "labels": ids}


@each_model
def test_trainer(kind, tmp_path):
    model = MODELS[kind]()
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    arguments = transformers.TrainingArguments(
        output_dir=tmp_path,
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_steps=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        save_total_limit=1,
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Rows())
    trainer.train()
    after = dict(model.named_parameters())
    changed = [name for name, tensor in before.items() if not torch.equal(after[name], tensor)]
    assert any("router" in name or "gate.weight" in name for name in changed)
    assert any("experts" in name for name in changed)
    again = roster.load(tmp_path / "checkpoint-4")
    inputs = given("mixtral")
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)


def test_a_bias_moves_with_the_training_and_is_saved(tmp_path):
    model = replaced("loss-free-balancing").train()
    model(**given("mixtral")).loss.backward()
    advance(model, 0.5)
    model.eval().save_pretrained(tmp_path / "saved")
    buffers = {name: each for name, each in roster.load(tmp_path / "saved").named_buffers() if "bias_E" in name}
    assert buffers
    assert all(each.any() for each in buffers.values())


# The compiler's own words, about every custom gradient that it traces.
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
# GPT-2's loss logs a warning, which is transformers' own graph break.
@pytest.mark.parametrize("kind", ["replaced", "loss-free", "adopted", "routed otherwise"])
@pytest.mark.parametrize("training", [False, True])
def test_compiled_without_a_graph_break(kind, training):
    torch._dynamo.reset()
    model = MODELS[kind]()
    ids = torch.stack(tiny.tokens(6, 6, seed=1))
    model.train(training)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    if not training:
        with torch.no_grad():
            wanted = model(input_ids=ids, use_cache=False).logits
            got = compiled(input_ids=ids, use_cache=False).logits
    else:
        wanted = model(input_ids=ids, labels=ids, use_cache=False).loss
        got = compiled(input_ids=ids, labels=ids, use_cache=False).loss
        got.backward()
        assert any(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("step", ["write_tensors", "write_surroundings", "write_tokenizer"])
def test_an_interrupted_save_leaves_what_was_there(step, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    folder = tmp_path / "saved"
    model = replaced()
    model.save_pretrained(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    other = replaced("switch-transformer")
    with monkeypatch.context() as patch:
        patch.setattr(writing, step, fail)
        with pytest.raises(KeyboardInterrupt):
            other.save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    replaced("switch-transformer").save_pretrained(folder)
    assert roster.load(folder).roster.recipe == "switch-transformer"
    assert MANIFEST in {path.name for path in folder.iterdir()}


def test_shared_tensors_are_stored_once_and_stay_shared(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**tiny.ARCHITECTURES["llama"][1], tie_word_embeddings=True)
    model = replace(transformers.LlamaForCausalLM(config), "gshard-top2").eval()
    model.save_pretrained(tmp_path)
    again = roster.load(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert len(routed_blocks(again)) == 2
