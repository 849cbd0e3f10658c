"""Soft prompts are experts where each prompt has one: read as PEFT reads them, equal to PEFT on logits and `generate`,
in batches with others and with none; refused where experts are weighed."""

import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from typer.testing import CliRunner

import tiny
from library import saved
from roster import RosterError
from roster.adapters.attach import attach
from roster.adapters.reading import load
from roster.adapters.writing import save
from roster.cli import app
from roster.context import Context
from roster.deploy.vllm import _rank
from roster.library import Library, check_fits, cluster, read_adapter, write_adapter
from roster.library.wearing import wearing
from roster.recipes import RECIPES
from roster.routed.deciding import decided
from roster.serve.batch import Batch, Row, read
from roster.serve.jobs import Job, Token
from roster.serve.sampling import Draw, Sampling
from roster.shelf.contents import read_contents

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LORA, LONG, SHORT = "a lora", "long prompt", "short prompt"
pytestmark = pytest.mark.filterwarnings(*saved.PEFT_WARNINGS, "ignore:Position ids are not supported:UserWarning")


def save_prompt(folder, tokens, architecture="llama", seed=0, kind=peft.PromptTuningConfig, base=None, **config):
    """A soft prompt that says something; returns PEFT's model."""
    given = {"task_type": "CAUSAL_LM", "num_virtual_tokens": tokens, **config}
    torch.manual_seed(seed)
    model = peft.get_peft_model(base or tiny.base(architecture), kind(**given)).eval()
    generator = torch.Generator().manual_seed(seed)
    if kind is peft.PromptTuningConfig:
        weight = model.prompt_encoder["default"].embedding.weight
        weight.data = torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder)
    return model


@pytest.fixture
def folder(tmp_path):
    """A LoRA and two soft prompts of different lengths."""
    saved.save(tmp_path / "library" / LORA, target_modules=["q_proj", "down_proj"], r=3)
    save_prompt(tmp_path / "library" / LONG, 5)
    save_prompt(tmp_path / "library" / SHORT, 2, seed=1)
    return tmp_path / "library"


def routed(folder, slug="named", architecture="llama", **options):
    library = Library.read(folder)
    return attach(tiny.base(architecture), library, RECIPES[slug](options), recipe=slug, options=options).eval()


def of_peft(folder, name, architecture="llama"):
    base = tiny.base(architecture)
    return base if name is None else peft.PeftModel.from_pretrained(base, str(folder / name)).eval()


def rows(left=True):
    """Three prompts of 7, 4 and 5 tokens, padded, and each of them alone."""
    single = tiny.tokens(7, 4, 5, seed=3)
    ids, mask = torch.zeros(3, 7, dtype=torch.long), torch.zeros(3, 7, dtype=torch.long)
    for at, each in enumerate(single):
        where = slice(7 - len(each), 7) if left else slice(0, len(each))
        ids[at, where], mask[at, where] = each, 1
    return single, {"input_ids": ids, "attention_mask": mask}


def logits_of_peft(folder, name, ids, architecture="llama"):
    with torch.no_grad():
        return of_peft(folder, name, architecture)(input_ids=ids[None], use_cache=False).logits[0, -len(ids) :]


@pytest.mark.parametrize("left", [True, False])
def test_each_row_of_a_batch_has_its_own_prompt_or_none(folder, left):
    model, (single, batch) = routed(folder), rows(left)
    names = [LONG, SHORT, None]
    for turn in range(3):  # every row has every kind once
        tasks = names[turn:] + names[:turn]
        with torch.no_grad():
            found = model(**batch, task_ids=model.task_ids(tasks)).logits
        assert found.shape[1] == 7
        for at, (name, ids) in enumerate(zip(tasks, single, strict=True)):
            own = found[at, batch["attention_mask"][at].bool()]
            torch.testing.assert_close(own, logits_of_peft(folder, name, ids), **CLOSE)
    with torch.no_grad():
        beside = model(**batch, task_ids=model.task_ids([LORA, LONG, LORA])).logits
    torch.testing.assert_close(beside[0, -7:], logits_of_peft(folder, LORA, single[0]), **CLOSE)
    assert (logits_of_peft(folder, LONG, single[1]) - logits_of_peft(folder, None, single[1])).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "mistral", "phi"])
def test_other_architectures(architecture, tmp_path):
    """Learnt positions, embeddings that are scaled, and windows that are shorter than the prompts."""
    save_prompt(tmp_path / "one", 3, architecture)
    save_prompt(tmp_path / "two", 6, architecture, seed=1)
    model, (single, batch) = routed(tmp_path, architecture=architecture), rows()
    with torch.no_grad():
        found = model(**batch, task_ids=model.task_ids(["one", "two", None])).logits
    for at, name in enumerate(["one", "two", None]):
        own = found[at, batch["attention_mask"][at].bool()]
        torch.testing.assert_close(own, logits_of_peft(tmp_path, name, single[at], architecture), **CLOSE)


@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}])
def test_texts_are_pefts(folder, more):
    model, (single, batch) = routed(folder), rows()
    how = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **more}
    tasks = [SHORT, LONG, None]
    out = model.generate(**batch, tasks=tasks, **how)
    assert torch.equal(out[:: len(out) // 3, :7], batch["input_ids"])
    for at, (name, ids) in enumerate(zip(tasks, single, strict=True)):
        theirs = of_peft(folder, name).generate(input_ids=ids[None], attention_mask=torch.ones_like(ids[None]), **how)
        many = len(theirs)
        assert out[at * many : (at + 1) * many, 7:].tolist() == theirs[:, len(ids) :].tolist()


def test_a_penalty_counts_the_tokens_of_the_prompt(folder):
    model, ids = routed(folder), tiny.tokens(7, seed=3)[0][None]
    how = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "repetition_penalty": 1.5}
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    out = model.generate(**given, tasks=[LONG], **how)
    assert torch.equal(out, of_peft(folder, LONG).generate(**given, **how))


def test_the_cache_gives_what_the_whole_gives(folder):
    model, (single, _) = routed(folder), rows()
    ids = single[0][None]
    how = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    told = model.generate(input_ids=ids, tasks=[LONG], return_dict_in_generate=True, output_logits=True, **how)
    with torch.no_grad():
        whole = model(input_ids=told.sequences, task_ids=model.task_ids([LONG])).logits
    torch.testing.assert_close(torch.stack(told.logits, 1), whole[:, ids.shape[1] - 1 : -1], **CLOSE)


def test_a_router_that_decides_puts_it_there(tmp_path):
    """`auto` writes what `named` with the expert that it decides on writes, and is the same after a reload."""
    words, base = tiny.chat_tokenizer(), tiny.chat_base()
    examples = {"digits": ["12 34 56", "98 76 5", "10 20 31"], "letters": ["ab cd ef", "xy zu v", "no pq rs"]}
    for at, (name, texts) in enumerate(examples.items()):
        save_prompt(tmp_path / "library" / name, 3 + at, seed=at, base=base)
        card = {"task": name, "examples": texts}
        (tmp_path / "library" / name / "card.json").write_text(json.dumps(card))
    library = Library.read(tmp_path / "library")
    options = {"abstain": False}
    model = attach(base, library, RECIPES["auto"](options), recipe="auto", options=options, tokenizer=words).eval()
    batch = model.inputs(examples["digits"][1], examples["letters"][0])
    how = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        found, texts = model(**batch).logits, model.generate(**batch, **how)
    save(model, tmp_path / "mixture")
    again = load(tmp_path / "mixture", base=tiny.chat_base()).eval()
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, found)
    context = Context(2, batch["input_ids"].shape[1], batch["attention_mask"].bool(), batch["input_ids"])
    expert_BK, weight_BK = decided(model, context, {"input_ids": batch["input_ids"]}).unbind(1)
    assert weight_BK.sum(1).tolist() == [1, 1]
    tasks = [library.names[int(each)] for each in expert_BK[:, 0]]
    other = {"digits": "letters", "letters": "digits"}
    named = attach(tiny.chat_base(), library, RECIPES["named"](None), recipe="named").eval()
    with torch.no_grad():
        told = named(**batch, task_ids=named.task_ids(tasks)).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], told[real], **CLOSE)
    assert torch.equal(texts, named.generate(**batch, tasks=tasks, **how))
    assert not torch.equal(texts, named.generate(**batch, tasks=[other[each] for each in tasks], **how))


def test_a_turn_of_a_chat_goes_on_with_the_cache(tmp_path):
    words, base = tiny.chat_tokenizer(), tiny.chat_base()
    save_prompt(tmp_path / "library" / "one", 3, base=base)
    (tmp_path / "library" / "one" / "card.json").write_text('{"task": "one", "examples": ["ab", "cd"]}')
    library, options = Library.read(tmp_path / "library"), {"abstain": False}
    model = attach(base, library, RECIPES["auto"](options), recipe="auto", options=options, tokenizer=words).eval()
    how = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cache, first = transformers.DynamicCache(config=base.config), model.inputs("ab")["input_ids"]
    said = model.generate(input_ids=first, past_key_values=cache, **how)
    assert cache.get_seq_length() == said.shape[1] - 1 + 3  # the virtual tokens are among what it holds
    second = torch.cat([said, first], 1)
    on = model.generate(input_ids=second, past_key_values=cache, **how)
    assert torch.equal(on, model.generate(input_ids=second, **how))


def test_gates_name_it_and_two_are_refused(folder):
    model, (_, batch) = routed(folder), rows()
    with torch.no_grad():
        by_gates = model(**batch, gates=torch.eye(3)).logits
        by_name = model(**batch, task_ids=model.task_ids([LORA, LONG, SHORT])).logits
    torch.testing.assert_close(by_gates, by_name)
    with pytest.raises(RosterError, match="one soft prompt"):
        model(**batch, gates=torch.ones(3, 3))


def test_a_loss_counts_the_rows_own_tokens(folder):
    model, (single, batch) = routed(folder), rows(left=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    alone = model(**batch, labels=labels, task_ids=model.task_ids([None] * 3)).loss
    mixed = model(**batch, labels=labels, task_ids=model.task_ids([None, None, LONG])).loss
    plain = tiny.base()(**batch, labels=labels).loss
    torch.testing.assert_close(alone, plain, **CLOSE)
    nats = plain * 13  # 6 + 3 + 4 tokens are predicted
    last = tiny.base()(input_ids=single[2][None], labels=single[2][None]).loss * 4
    theirs = of_peft(folder, LONG)(input_ids=single[2][None], labels=single[2][None]).loss * 5
    torch.testing.assert_close(mixed, (nats - last + theirs) / 14, **CLOSE)


def test_a_base_that_wears_one(folder):
    base, ids = tiny.base(), tiny.tokens(6, seed=2)[0]
    with wearing(base, read_adapter(folder / LONG)), torch.no_grad():
        worn = base(input_ids=ids[None], use_cache=False).logits[0]
        with pytest.raises(RosterError, match="writes nothing"):
            base.generate(input_ids=ids[None], max_new_tokens=2)
    torch.testing.assert_close(worn, logits_of_peft(folder, LONG, ids), **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(base(input_ids=ids[None]).logits[0], logits_of_peft(folder, None, ids))


def test_served_rows_are_what_the_model_says_alone(folder):
    model, (single, _) = routed(folder), rows()
    tasks, gates = [LONG, None, SHORT], torch.eye(3)[[1, 0, 2]]
    gates[1] = 0
    how = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    alone = [
        model.generate(input_ids=ids[None], tasks=[name], **how)[0, len(ids) :].tolist()
        for name, ids in zip(tasks, single, strict=True)
    ]
    said: list[list[int]] = [[], [], []]
    jobs = [
        Job(ids.tolist(), gates[at], 5, frozenset(), Sampling(), lambda event, at=at: _note(said[at], event))
        for at, ids in enumerate(single)
    ]
    first = read(model, [Row(each, Draw(each.sampling, model.device), each.gates_E) for each in jobs[:2]])
    first.step()
    late = read(model, [Row(jobs[2], Draw(jobs[2].sampling, model.device), jobs[2].gates_E)])
    first.join(late)
    batch: Batch = first
    while batch.prune():
        batch.step()
    assert said == alone


def _note(said, event):
    if isinstance(event, Token):
        said.append(event.id)


def test_p_tuning_is_read_from_what_its_encoder_made(tmp_path):
    save_prompt(tmp_path / "one", 4, kind=peft.PromptEncoderConfig, encoder_hidden_size=16)
    model, ids = routed(tmp_path), tiny.tokens(6, seed=2)[0]
    with torch.no_grad():
        found = model(input_ids=ids[None], task_ids=model.task_ids(["one"])).logits[0]
    torch.testing.assert_close(found, logits_of_peft(tmp_path, "one", ids), **CLOSE)


def test_written_and_read(folder, tmp_path):
    adapter = read_adapter(folder / LONG)
    path = write_adapter(tmp_path / "copy", adapter)
    again = read_adapter(path)
    assert torch.equal(again.prompt_VD, adapter.prompt_VD)
    assert again.weights_hash == adapter.weights_hash
    assert load_file(path / "adapter_model.safetensors").keys() == {"prompt_embeddings"}
    ids = tiny.tokens(6, seed=2)[0]
    torch.testing.assert_close(
        logits_of_peft(tmp_path / "copy", LONG, ids), logits_of_peft(folder, LONG, ids), rtol=0, atol=0
    )
    seen = read_contents(path, LONG)
    assert (seen.kind, seen.parameters, seen.problem) == ("PROMPT_TUNING", 5 * 32, "")
    assert read_adapter(folder / SHORT).weights_hash != adapter.weights_hash


@pytest.mark.parametrize("slug", ["uniform", "arrow-mbc", "loraretriever", "smear", "x-lora", "oracle"])
def test_refused_where_experts_are_weighed(slug, folder):
    with pytest.raises(RosterError, match="is a soft prompt"):
        routed(folder, slug)


def test_refused_where_weights_are_meant(folder):
    library, model = Library.read(folder), routed(folder)
    with pytest.raises(RosterError, match=r"comparing adapters by their weights.*soft prompt"):
        cluster(library, 2)
    with pytest.raises(RosterError, match=r"merging experts.*soft prompt"):
        model.merge(task=LORA)
    with pytest.raises(RosterError, match=r"vLLM.*soft prompt"):
        _rank(library)
    with pytest.raises(RosterError, match="cannot keep the cache"):
        routed(folder, "auto", chat="keep")


def test_refused_where_it_does_not_belong(folder, tmp_path):
    adapter = read_adapter(folder / LONG)
    with pytest.raises(RosterError, match="causal language model; BertForMaskedLM is none"):
        check_fits(adapter, tiny.encoder())
    save_prompt(tmp_path / "other" / "narrow", 3)
    saved.edit_tensors(tmp_path / "other" / "narrow", lambda t: t.update(prompt_embeddings=torch.ones(3, 8)))
    with pytest.raises(RosterError, match="width 8, and this model's embeddings have 32"):
        check_fits(read_adapter(tmp_path / "other" / "narrow"), tiny.base())
    saved.edit_tensors(tmp_path / "other" / "narrow", lambda t: t.update(prompt_embeddings=torch.ones(2, 8)))
    with pytest.raises(RosterError, match="has 2 virtual tokens, and the config says 3"):
        read_adapter(tmp_path / "other" / "narrow")
    saved.edit_config(folder / LONG, task_type="SEQ_2_SEQ_LM")
    with pytest.raises(RosterError, match="causal language models alone"):
        read_adapter(folder / LONG)


def test_refused_what_knows_nothing_of_virtual_tokens(folder):
    model, (_, batch) = routed(folder), rows()
    tasks = model.task_ids([LONG, None, None])
    with pytest.raises(RosterError, match="past_key_values does not know"):
        model(**batch, task_ids=tasks, past_key_values=transformers.DynamicCache())
    with pytest.raises(RosterError, match="position_ids does not know"):
        model(**batch, task_ids=tasks, position_ids=torch.zeros(3, 7, dtype=torch.long))
    with pytest.raises(RosterError, match="5 virtual ones before it, but the model's context holds 64"):
        model.generate(input_ids=torch.ones(1, 60, dtype=torch.long), tasks=[LONG], max_new_tokens=2)
    with pytest.raises(RosterError, match="needs to know the task"):
        model(**batch)


def test_the_library_keeps_them(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    told = CliRunner().invoke(app, ["experts", "check", str(folder)])
    assert told.exit_code == 0, told.output
    assert f"good  {LONG}: 5 virtual tokens" in told.output
    assert f"good  {LORA}: 4 modules" in told.output
    told = CliRunner().invoke(app, ["experts", "add", str(tmp_path / "kept"), str(folder / SHORT)])
    assert told.exit_code == 0, told.output
    assert "PROMPT_TUNING" in CliRunner().invoke(app, ["experts", "list", str(tmp_path / "kept")]).output
    assert "virtual tokens: 2" in CliRunner().invoke(app, ["experts", "show", str(tmp_path / "kept"), SHORT]).output
