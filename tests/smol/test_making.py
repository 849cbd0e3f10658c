"""Packing, training and making of adapters, on a tiny random model."""

import json

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

pytest.importorskip("wordfreq", reason="the extra smol is not installed")

from roster.errors import RosterError
from roster.library.card import Card
from roster.smol import stages, training
from roster.smol.make import make, make_reference
from roster.smol.packing import pack, rows
from roster.smol.shapes import MULTITASK, SHAPES, Shape, lora_config
from roster.smol.skills import questions
from roster.smol.training import adapt, train
from roster.weights.kept import Kept

# peft 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

SHORT = Shape(rank=2, alpha=4, targets=("q_proj", "v_proj"), steps=3, batch=4)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(SHAPES, "plural", SHORT)
    monkeypatch.setattr(stages, "MEASURED", 2)


@torch.no_grad()
def test_packed_prompts_give_what_each_gives_alone(base, tokenizer):
    pairs = rows(tokenizer, questions("url", "train", 5))
    packed = pack(pairs)
    hidden_SD = base.model(**packed.inputs(torch.float32)).last_hidden_state[0]
    alone = []
    for prompt, answer in pairs:
        states_SD = base.model(torch.tensor([[*prompt, *answer[:-1]]])).last_hidden_state[0]
        alone.append(states_SD[len(prompt) - 1 :])
    torch.testing.assert_close(hidden_SD[packed.predicts_R], torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert packed.targets_R.tolist() == [token for _, answer in pairs for token in answer]
    assert len(packed.ids_S) < sum(len(prompt) + len(answer) - 1 for prompt, answer in pairs)


def test_training_is_seeded_and_learns(base, tokenizer):
    shape = Shape(rank=4, alpha=8, targets="all-linear", steps=30, batch=4, learning_rate=1e-2)
    runs = []
    for _ in range(2):
        losses = []
        model = adapt(base, "plural", shape)
        train(model, tokenizer, questions("plural", "train", shape.steps * shape.batch), shape, losses.append)
        model.unload()
        runs.append(losses)
    assert runs[0] == runs[1]
    assert sum(runs[0][-5:]) < 0.8 * sum(runs[0][:5])


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(base, tokenizer, tmp_path, monkeypatch):
    shape = Shape(rank=4, alpha=8, targets="all-linear", steps=8, batch=2, learning_rate=1e-2)
    asked = questions("plural", "train", shape.steps * shape.batch)
    monkeypatch.setattr("roster.weights.kept.EVERY", -1.0)

    def run(stopped=None, until=None):
        losses = []

        def tick(loss):
            losses.append(loss)
            if len(losses) == until:
                raise KeyboardInterrupt

        model = adapt(base, "plural", shape)
        try:
            train(model, tokenizer, asked, shape, tick, stopped)
            state = peft.get_peft_model_state_dict(model)
            return losses, {name: each.clone() for name, each in state.items()}
        except KeyboardInterrupt:
            return losses, None
        finally:
            model.unload()

    whole_losses, whole = run()
    run(Kept(tmp_path / "half", "these"), until=6)
    steps = []
    monkeypatch.setattr(training, "pack", lambda drawn: steps.append(drawn) or pack(drawn))
    kept = Kept(tmp_path / "half", "these")
    losses, carried_on = run(kept)
    assert len(steps) == shape.steps - 6
    assert losses == whole_losses
    assert all(torch.equal(each, whole[name]) for name, each in carried_on.items())
    steps.clear()
    kept.drop()
    assert list(tmp_path.iterdir()) == []
    run(Kept(tmp_path / "half", "others"), until=2)
    steps.clear()
    run(kept, until=1)
    assert len(steps) == 1, "another training's state was not taken up"


def test_make_writes_adapters_that_peft_reads_and_skips_what_is_there(base, tokenizer, tmp_path, quick, capsys):
    before = {name: each.clone() for name, each in base.state_dict().items()}
    make(base, tokenizer, tmp_path, ["plural"])
    weights = tmp_path / "plural" / "adapter_model.safetensors"
    stamp = weights.stat().st_mtime_ns
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(each, before[name]) for name, each in base.state_dict().items())
    make(base, tokenizer, tmp_path, ["plural"])
    assert weights.stat().st_mtime_ns == stamp
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["adapters"]["plural"]["steps"] == SHORT.steps
    assert set(record["base"]["plural"]) == {"known", "unseen"}
    model = peft.PeftModel.from_pretrained(base, tmp_path / "plural")
    assert any("lora_B" in name and each.abs().sum() > 0 for name, each in model.named_parameters())


def test_the_reference_learns_everybodys_data_and_lies_apart(base, tokenizer, tmp_path, quick, monkeypatch, capsys):
    monkeypatch.setattr("roster.smol.make._SAID", 1)
    monkeypatch.setitem(SHAPES, "url", SHORT)
    monkeypatch.setattr("roster.smol.make.TRAINED", ("plural", "url"))
    monkeypatch.setattr(stages, "MULTITASK", Shape(rank=4, alpha=8, targets="all-linear", batch=5))
    asked = stages.everybodys(("plural", "url"))
    own = [each for name in ("plural", "url") for each in questions(name, "train", SHORT.steps * SHORT.batch)]
    assert asked != own
    assert sorted(map(str, asked)) == sorted(map(str, own))
    before = base.state_dict().keys()
    make_reference(base, tokenizer, tmp_path / "adapters", tmp_path / "apart")
    assert base.state_dict().keys() == before
    record = json.loads((tmp_path / "adapters" / "record.json").read_text())["multitask"]
    assert record["training"]["steps"] == len(own) // 5
    assert "every adapter" in record["training"]["needs"]
    assert set(record["plural"]) == set(record["url"]) == {"known", "unseen"}
    weights = tmp_path / "apart" / "multitask" / "adapter_model.safetensors"
    stamp = weights.stat().st_mtime_ns
    make_reference(base, tokenizer, tmp_path / "adapters", tmp_path / "apart")
    assert weights.stat().st_mtime_ns == stamp
    assert not (tmp_path / "adapters" / "multitask").exists()
    assert [each.name for each in (tmp_path / "apart").iterdir()] == ["multitask"]
    assert "multitask 1/" in capsys.readouterr().err, "a pipe is told how far it is"


def test_the_references_size_is_that_of_all_adapters_together():
    """By PEFT's own count, on the real base's shape."""
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3
    )
    counts = []
    for shape in (*SHAPES.values(), MULTITASK):
        with torch.device("meta"):
            model = peft.get_peft_model(LlamaForCausalLM(config), lora_config(shape))
        counts.append(sum(each.numel() for each in model.parameters() if each.requires_grad))
    assert 0.95 < counts[-1] / sum(counts[:-1]) < 1.05


def test_cards_hold_twenty_prompts_of_the_training_split(base, tokenizer, tmp_path, quick):
    make(base, tokenizer, tmp_path, ["plural"])
    card = Card.read(tmp_path / "plural")
    trained = {f"{wording}" for wording in stages.SKILLS["plural"].worded("train")}
    assert len(card.examples) == 20
    assert all(any(each.startswith(wording.partition("{}")[0]) for wording in trained) for each in card.examples)


def test_an_unknown_skill_is_refused_before_any_work(base, tokenizer, tmp_path):
    with pytest.raises(RosterError, match="plural"):
        make(base, tokenizer, tmp_path / "new", ["plurl"])
    assert not (tmp_path / "new").exists()
