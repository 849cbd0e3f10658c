"""Experts that stay in their files: the same answers, nothing copied, only those on duty read."""

import pytest
import torch

import roster
from roster import pocket
from roster.arena.evaluate import answers
from roster.errors import RosterError
from roster.experts import LowRankExperts, StoredExperts
from roster.library import Library
from roster.pocket.skills import HELD_IN, examples


def loaded(router, mapped, **options):
    library = Library.read(pocket.experts_path(), mapped=mapped)
    return roster.load("pocket", experts=library, router=router, options=options).eval()


@pytest.fixture(scope="module")
def asked():
    return [each.prompt for name in HELD_IN[:4] for each in examples(name, "test", 1)]


@pytest.mark.parametrize("router", ["named", "arrow-mbc", "uniform"])
@torch.no_grad()
def test_the_same_numbers_as_experts_in_memory(router, asked):
    held, stored = loaded(router, False), loaded(router, True)
    inputs = held.inputs(*asked)
    tasks = {"task_ids": held.task_ids([HELD_IN[0], HELD_IN[1], None, HELD_IN[1]])} if router == "named" else {}
    expected = held(**inputs, **tasks).logits
    assert not torch.allclose(expected, pocket.load_base()[0](**inputs).logits, atol=1e-2)
    torch.testing.assert_close(stored(**inputs, **tasks).logits, expected, rtol=1e-5, atol=1e-5)


def test_the_same_answers_of_auto(asked):
    told = [answers(each, each.roster.tokenizer, asked) for each in (loaded("auto", False), loaded("auto", True))]
    assert told[0] == told[1]


def test_nothing_is_copied_and_only_those_on_duty_are_read(asked, monkeypatch):
    model = loaded("named", True)
    modules = [each for each in model.modules() if isinstance(each, StoredExperts)]
    assert modules
    assert not [each for each in model.modules() if isinstance(each, LowRankExperts)]
    assert not [name for name, _ in model.named_parameters() if "roster.experts" in name]
    read, taken = set(), StoredExperts.taken
    monkeypatch.setattr(StoredExperts, "taken", lambda self, duty: (read.update(duty), taken(self, duty))[1])
    model.generate(**model.inputs(*asked[:2]), tasks=[HELD_IN[0], HELD_IN[2]], max_new_tokens=4)
    names = model.roster.experts
    assert {names[e] for e in read} == {HELD_IN[0], HELD_IN[2]}


def test_a_mixture_of_stored_experts_is_saved_whole(asked, tmp_path):
    model = loaded("arrow-mbc", True)
    model.save_pretrained(tmp_path / "saved")
    again = roster.load(tmp_path / "saved").eval()
    inputs = model.inputs(*asked)
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)


def test_merging_reads_them(asked):
    held, stored = loaded("uniform", False).merge(), loaded("uniform", True).merge()
    for name, update in held.adapter.modules.items():
        other = stored.adapter.modules[name]
        torch.testing.assert_close(other.B_OR @ other.A_RD, update.B_OR @ update.A_RD)


@pytest.mark.parametrize("router", ["smear", "scalearn"])
def test_recipes_that_need_them_in_memory_say_so(router):
    with pytest.raises(RosterError, match="without mapped=True"):
        loaded(router, True)
