"""Cards: written by people, checked strictly, kept in step with the weights."""

import json

import pytest

import tiny
from library import saved
from roster import RosterError
from roster.library import Card, Library, read_adapter, refresh_cards, write_adapter
from roster.library.card import CARD

WRITTEN = {"task": "poems", "description": "Writes poems – short ones.", "examples": ["Write a poem on mud."]}


def test_no_card(adapter_folder):
    assert read_adapter(adapter_folder).card == Card(task="poems")


def test_round_trip(tmp_path):
    card = Card(**WRITTEN)
    assert card.write(tmp_path) == tmp_path / CARD
    assert Card.read(tmp_path) == card
    assert [path.name for path in tmp_path.iterdir()] == [CARD]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold an object with a task, not a list"),
        ("{}", "field 'task' is missing: it must be a text"),
        ('{"task": 3}', "field 'task' must be a text, .*; not 3"),
        ('{"task": "a", "examples": "one"}', "field 'examples' must be a list of prompts: .*; not \"one\""),
        ('{"task": "a", "examples": ["one", 2]}', "field 'examples', item 2, must be a list of prompts: .*; not 2"),
        ('{"task": "a", "exmaples": []}', "unknown field 'exmaples': did you mean 'examples'?"),
    ],
)
def test_bad_cards(text, match, adapter_folder):
    (adapter_folder / CARD).write_text(text)
    with pytest.raises(RosterError, match=match) as caught:
        read_adapter(adapter_folder)
    assert str(adapter_folder / CARD) in str(caught.value)


def test_a_stale_card(adapter_folder):
    (adapter_folder / CARD).write_text(json.dumps({**WRITTEN, "weights_hash": "0" * 64}))
    with pytest.raises(RosterError, match=r"stale: .*roster experts check FOLDER --refresh"):
        Library.read(adapter_folder.parent)
    changed = refresh_cards(adapter_folder.parent)
    assert changed.keys() == {"poems"}
    adapter = Library.read(adapter_folder.parent)["poems"]
    assert adapter.card == Card(**WRITTEN, weights_hash=adapter.weights_hash)


def test_refresh_records_the_base_and_is_idempotent(adapter_folder):
    saved.edit_config(adapter_folder, base_model_name_or_path="some/base")
    folder = adapter_folder.parent
    cards = refresh_cards(folder, tiny.base())
    assert cards["poems"].base == "some/base"
    assert len(cards["poems"].base_hash) == len(cards["poems"].weights_hash) == 64
    assert refresh_cards(folder, tiny.base()) == refresh_cards(folder) == {}


def test_refresh_writes_nothing_when_one_adapter_is_bad(adapter_folder):
    folder = adapter_folder.parent
    saved.save(folder / "zebra", "gpt2", target_modules=["c_attn"], fan_in_fan_out=True)
    with pytest.raises(RosterError, match="zebra"):
        refresh_cards(folder, tiny.base())
    assert not list(folder.glob(f"*/{CARD}"))


def test_refresh_wants_the_whole_base(adapter_folder):
    with pytest.raises(RosterError, match="quantised or partly loaded"):
        refresh_cards(adapter_folder.parent, tiny.base().to("meta"))


def test_writing_an_adapter_writes_its_hash(adapter_folder, tmp_path):
    adapter = read_adapter(adapter_folder)
    card = Card.read(write_adapter(tmp_path / "new", adapter))
    assert card.weights_hash == adapter.weights_hash
