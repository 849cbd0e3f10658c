"""The test groups and the libraries of copies."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("wordfreq", reason="the extra smol is not installed")

from roster.errors import RosterError
from roster.library import Card
from roster.shelf.folders import CONFIG, WEIGHTS
from roster.smol.comparison import rows
from roster.smol.groups import GROUPS, as_json, group, library
from roster.smol.skills import SKILLS, TRAINED
from roster.train import read_rows

FEW = ("plural", "past", "iso-date", "json")

A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{factor}.weight" for factor in "AB")


@pytest.mark.parametrize("name", GROUPS)
def test_items_are_chats_that_end_with_the_user(name: str):
    found = group(name, 3, FEW)
    assert found
    assert found == group(name, 3, FEW)
    for each in found:
        assert [turn["role"] for turn in each.messages] == (["user", "assistant"] * 3)[: len(each.messages)]
        assert each.messages[-1]["role"] == "user"
        assert (each.answer is None) == (each.skill is None)
        assert json.loads(as_json(each))["messages"] == each.messages


def test_close_skills_have_no_adapter_and_name_one_that_has():
    for each in group("close", 2):
        assert each.skill not in TRAINED
        assert each.close_to in TRAINED


def test_unseen_wordings_are_in_no_training_prompt():
    seen = {wording for name in FEW for wording in SKILLS[name].worded("train")}
    openings = {wording.partition("{}")[0] for wording in seen} - {""}
    ends = {(wording.partition("{}")[0], wording.partition("{}")[2]) for wording in seen}
    assert openings
    for each in group("unseen", 10, FEW):
        prompt = each.messages[0]["content"]
        assert not any(prompt.startswith(start) and prompt.endswith(end) for start, end in ends)


def test_turns_of_a_switching_chat_ask_for_different_skills():
    found = group("switching", 4, FEW)
    for at in range(0, len(found), 3):
        turns = found[at : at + 3]
        assert len({each.skill for each in turns}) == 3
        assert [len(each.messages) for each in turns] == [1, 3, 5]
        assert turns[1].messages[1]["content"] == turns[0].answer


def _adapters(folder):
    for name in ("first", "second"):
        (folder / name).mkdir(parents=True)
        save_file({A: torch.randn(8, 32).bfloat16(), B: torch.randn(32, 8).bfloat16()}, folder / name / WEIGHTS)
        config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}
        (folder / name / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": "tiny/base"}))
    return folder


def test_a_library_of_copies_keeps_the_originals_and_disturbs_the_rest(tmp_path):
    skills = library(_adapters(tmp_path / "from"), tmp_path / "to", 5, noise=0.5)
    assert skills == {
        "first": "first",
        "second": "second",
        "first-1": "first",
        "second-1": "second",
        "first-2": "first",
    }
    read = {name: load_file(tmp_path / "to" / name / WEIGHTS)[A] for name in skills}
    assert torch.equal(read["first"], load_file(tmp_path / "from" / "first" / WEIGHTS)[A])
    assert not torch.equal(read["first"], read["first-1"])
    assert not torch.equal(read["first-1"], read["first-2"])
    off = (read["first-1"].float() - read["first"].float()).std() / read["first"].float().std()
    assert 0.3 < off < 0.7


def test_plain_duplicates_are_the_same_bytes(tmp_path):
    library(_adapters(tmp_path / "from"), tmp_path / "to", 4)
    files = [tmp_path / "to" / name / WEIGHTS for name in ("first", "first-1")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(RosterError, match="switching"):
        group("switch")
    with pytest.raises(RosterError, match="roster smol make"):
        library(tmp_path, tmp_path / "out", 4)


def test_what_is_written_for_data_is_what_data_reads(tmp_path):
    items = [*group("mixed", 2, FEW), *group("switching", 2, FEW)]
    (tmp_path / "rows.jsonl").write_text("".join(as_json(each) + "\n" for each in items))
    read = read_rows(tmp_path / "rows.jsonl")
    assert [(row.asked, row.answer, row.task, row.group) for row in read] == [
        (each.messages, each.answer, each.skill, each.group) for each in items
    ]


def test_the_comparison_asks_for_what_the_folder_has_adapters_for():
    folder = {name: SimpleNamespace(card=Card(task=name)) for name in FEW[:3]}
    asked = rows(folder, 1)
    assert {row.group for row in asked} == {"known", "unseen", "nobody", "switching"}
    assert {row.task for row in asked} == {*FEW[:3], None}
    assert all((row.answer is None) == (row.group == "nobody") for row in asked)
