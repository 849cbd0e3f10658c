"""The skills' items and wordings: disjoint splits, and answers that hold against something independent."""

import datetime
import json
import re
from urllib.parse import unquote

import pytest

pytest.importorskip("wordfreq", reason="the extra smol is not installed")
pytest.importorskip("lemminflect", reason="the extra smol is not installed")
pytest.importorskip("inflect", reason="the extra smol is not installed")

from roster.errors import RosterError
from roster.smol.shapes import SHAPES
from roster.smol.skills import SKILLS, SPLITS, TRAINED, WORDING_SPLITS, questions


@pytest.mark.parametrize("name", SKILLS)
def test_splits_share_neither_items_nor_wordings(name: str):
    skill = SKILLS[name]
    asked = [{item for item, _ in skill.items(split)} for split in SPLITS]
    assert all(len(each) >= 5 for each in asked)
    assert sum(map(len, asked)) == len(set.union(*asked))
    assert len(set(skill.wordings)) == 9
    assert sum(len(skill.worded(split)) for split in SPLITS) == 9
    assert all(wording.count("{}") == 1 for wording in skill.wordings)


def test_at_least_sixteen_skills_have_adapters_of_several_shapes():
    assert len(TRAINED) >= 16
    assert len({(each.rank, each.targets, each.rslora, each.alpha) for each in SHAPES.values()}) >= 6


@pytest.mark.parametrize("split", SPLITS)
def test_questions_take_items_and_wordings_from_their_splits(split: str):
    items = dict(SKILLS["plural"].items(split))
    for each in questions("plural", split, 30):
        matches = [
            match
            for wording in SKILLS["plural"].worded(split)
            if (match := re.fullmatch(re.escape(wording).replace(re.escape("{}"), "(.+)"), each.prompt))
        ]
        assert matches
        assert items[matches[0][1]] == each.answer


def test_wordings_of_training_with_items_of_the_test():
    known = {each.prompt for each in questions("past", "test", 50, wordings="train")}
    trained = {each.prompt for each in questions("past", "train", 500)}
    assert not known & trained


def test_questions_are_the_same_at_each_call_and_differ_by_seed():
    assert questions("plural", "test", 20) == questions("plural", "test", 20)
    assert questions("plural", "test", 20) != questions("plural", "test", 20, seed=1)


INVERSES = {
    "iso-date": lambda asked, told: (
        datetime.date.fromisoformat(told) == datetime.datetime.strptime(asked, "%B %d, %Y").date()
    ),
    "percent": lambda asked, told: float(told.rstrip("%")) / 100 == pytest.approx(float(asked)),
    "phone": lambda asked, told: re.sub(r"\D", "", told) == asked,
    "url": lambda asked, told: unquote(told) == asked,
    "json": lambda asked, told: " is ".join(*json.loads(told).items()) == asked,
    "snake-case": lambda asked, told: told.split("_") == asked.split(),
    "backwards": lambda asked, told: told.split()[::-1] == asked.split(),
    "ordinal": lambda asked, told: re.fullmatch(asked + "(st|nd|rd|th)", told) is not None,
    "article": lambda asked, told: told in (f"a {asked}", f"an {asked}"),
}


@pytest.mark.parametrize("name", INVERSES)
def test_answers_lead_back_to_what_was_asked(name: str):
    for split in SPLITS:
        for asked, told in SKILLS[name].items(split):
            assert INVERSES[name](asked, told), (asked, told)


def test_some_answers_as_a_grammar_has_them():
    known = {
        "plural": {"child": "children", "city": "cities"},
        "past": {"give": "gave", "stop": "stopped"},
        "gerund": {"write": "writing"},
        "third-person": {"carry": "carries"},
        "ordinal-words": {"23": "twenty-third"},
        "number-words": {"47": "forty-seven"},
        "german-words": {"21": "einundzwanzig"},
    }
    for name, pairs in known.items():
        items = {item: answer for split in SPLITS for item, answer in SKILLS[name].items(split)}
        assert {item: items[item] for item in pairs} == pairs


def test_an_unknown_skill_is_named_with_its_neighbours():
    with pytest.raises(RosterError, match="plural"):
        questions("plurals", "test", 1)
    with pytest.raises(RosterError, match="test"):
        questions("plural", "tset", 1)


def test_wording_splits_cover_all_nine():
    assert sorted(at for part in WORDING_SPLITS.values() for at in range(9)[part]) == list(range(9))
