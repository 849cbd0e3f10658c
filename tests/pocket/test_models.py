"""The shipped models: small, free of paths, and as good and as bad as the record says."""

from __future__ import annotations

import json
import re

import pytest
import torch

from roster import pocket
from roster.pocket.measure import accuracy
from roster.pocket.skills import HELD_IN, SKILLS, examples
from roster.pocket.stages import load_adapters

# PEFT asks transformers for a property by the name it had before.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
COUNT = 40
MOST_BYTES = 20e6
KEYS = {"task", "description", "examples", "base", "base_hash", "weights_hash"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base():
    return pocket.load_base()


@pytest.fixture(scope="module")
def record():
    return json.loads((pocket.MODELS / "record.json").read_text())


@pytest.fixture(scope="module")
def adapted(base):
    model, _ = pocket.load_base()
    return load_adapters(model, {name: pocket.experts_path() / name for name in HELD_IN})


def test_an_expert_for_each_held_in_skill():
    assert {path.name for path in pocket.experts_path().iterdir()} == set(HELD_IN)


def test_everything_is_small():
    assert sum(path.stat().st_size for path in pocket.MODELS.rglob("*") if path.is_file()) < MOST_BYTES


def test_nothing_names_a_machines_folders():
    for path in [*pocket.MODELS.rglob("*.json"), *pocket.MODELS.rglob("*.md")]:
        assert not re.search(r'"(/|[A-Za-z]:\\\\|~/)\w', path.read_text()), path
    for folder in [*pocket.experts_path().iterdir(), pocket.multitask_path()]:
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == pocket.BASE_NAME


@pytest.mark.parametrize("skill", HELD_IN)
def test_cards_tell_the_task_and_no_answers(skill):
    card = json.loads((pocket.experts_path() / skill / "card.json").read_text())
    assert set(card) == KEYS
    assert (card["task"], card["base"]) == (skill, pocket.BASE_NAME)
    assert 8 <= len(card["examples"]) <= 16
    assert all(prompt.endswith("=") for prompt in card["examples"])
    assert not set(card["examples"]) & {each.prompt for each in examples(skill, "test", 200)}


def test_the_tokenizer_round_trips_and_pads_left(base):
    model, tokenizer = base
    text = "".join(chr(code) for code in range(32, 127)) + "\n  two  spaces, and an end "
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert len(ids) == len(text) + 1
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    padded = tokenizer(["a", "abc"], padding=True)["input_ids"]
    assert padded[0][0] == tokenizer.pad_token_id
    assert len(tokenizer) == model.config.vocab_size


def test_the_base_is_what_load_base_promises(base):
    model, _ = base
    assert next(model.parameters()).dtype == torch.float32
    assert not model.training
    assert 3e6 <= sum(each.numel() for each in model.parameters()) <= 10e6
    assert model.config.max_position_embeddings >= 256


def test_the_base_lacks_the_skills(base):
    model, tokenizer = base
    shares = accuracy(model, tokenizer, HELD_IN, "test", COUNT)
    assert sum(shares.values()) / len(shares) < 0.35


def test_each_expert_has_its_skill(adapted, base):
    shares = {}
    for name in HELD_IN:
        adapted.set_adapter(name)
        shares |= accuracy(adapted, base[1], [name], "test", COUNT)
    assert not {name: share for name, share in shares.items() if share <= 0.9}


def test_the_record_covers_every_skill_and_expert(record):
    assert set(record["test"]["base"]) == set(HELD_IN)
    assert set(record["test"]["experts_on_their_own"]) == set(HELD_IN)
    assert all(set(record["validation"][name]) == set(SKILLS) for name in ("base", "multitask", *HELD_IN))
    assert record["test"]["examples_per_skill"] >= 200
    assert min(record["test"]["experts_on_their_own"].values()) > 0.9
