"""The suite: the same everywhere, splits apart, answers right."""

from __future__ import annotations

import pytest

from roster.errors import RosterError
from roster.pocket.contents import SPLITS, split_of
from roster.pocket.skills import COMPOSED, HELD_IN, SKILLS, UNSEEN, Example, examples, is_correct
from roster.pocket.tokenizer import MAX_LENGTH

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def _texts(prompt):
    """The texts that a prompt asks about."""
    return [part.partition(": ")[2] for part in prompt.removesuffix(" =").split(" & ")]


def _slowly(skill, text):
    """The answer again, one character at a time and by other means than the suite's."""
    out = ""
    if skill == "sort":
        for letter in ALPHABET:
            for char in text:
                out += char if char == letter else ""
    elif skill == "reverse":
        for char in text:
            out = char + out
    elif skill == "shift":
        for char in text:
            out += (ALPHABET + "a")[ALPHABET.index(char) + 1]
    elif skill == "swap":
        for at in range(len(text)):
            other = at + 1 if at % 2 == 0 else at - 1
            out += text[other] if other < len(text) else text[at]
    elif skill == "dedupe":
        for char in text:
            out += "" if char in out else char
    elif skill == "rotate":
        for at in range(len(text)):
            out += text[(at + 1) % len(text)]
    elif skill == "digits":
        for char in text:
            out += {"9": "0"}.get(char) or str(int(char) + 1)
    elif skill == "vowels":
        for char in text:
            out += {"a": "a", "e": "e", "i": "i", "o": "o", "u": "u"}.get(char, "")
    elif skill == "initials":
        for before, char in zip(" " + text, text, strict=False):
            out += char if before == " " else ""
    elif skill == "twice":
        for at in range(2 * len(text)):
            out += text[at // 2]
    elif skill == "alternate":
        for at in range(0, len(text), 2):
            out += text[at]
    else:
        raise NotImplementedError(skill)
    return out


CHECKED = (
    "sort",
    "reverse",
    "shift",
    "swap",
    "dedupe",
    "rotate",
    "digits",
    "vowels",
    "initials",
    "twice",
    "alternate",
)


def test_the_groups_are_large_enough():
    assert len(HELD_IN) >= 12
    assert len(UNSEEN) >= 6
    assert len(COMPOSED) >= 6
    assert set(SKILLS) == {*HELD_IN, *UNSEEN, *COMPOSED}
    assert all(set(SKILLS[name].parts) <= set(HELD_IN) for name in SKILLS)
    assert all(len(SKILLS[name].parts) == 2 for name in COMPOSED)


def test_the_same_examples_come_everywhere():
    drawn = [examples(skill, "test", 5)[4] for skill in ("reverse", "sort-digits", "shift+reverse")]
    assert [(each.prompt, each.answer) for each in drawn] == [
        ("write backwards: pkyonm =", "mnoykp"),
        ("put in order: 47862 =", "24678"),
        ("shift by one: hcbb & reverse: uazi =", "idcc & izau"),
    ]


def test_more_examples_begin_with_the_fewer():
    assert examples("sort", "train", 30)[:10] == examples("sort", "train", 10)
    assert examples("sort", "train", 10, seed=1) != examples("sort", "train", 10)


@pytest.mark.parametrize("skill", SKILLS)
def test_no_text_is_in_two_splits(skill):
    texts = {split: {text for each in examples(skill, split, 120) for text in _texts(each.prompt)} for split in SPLITS}
    for split, mine in texts.items():
        assert {split_of(text) for text in mine} == {split}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]


@pytest.mark.parametrize("skill", SKILLS)
def test_levels_wordings_and_lengths(skill):
    drawn = examples(skill, "test", 60)
    assert {each.level for each in drawn} == {1, 2, 3}
    assert len({tuple(part.partition(":")[0] for part in each.prompt.split(" & ")) for each in drawn}) >= 3
    for each in drawn:
        assert each.prompt.endswith(" =")
        assert 1 <= len(each.answer) <= 24
        assert len(each.prompt) <= 60 < MAX_LENGTH
        assert (each.skill, each.group, each.parts) == (skill, SKILLS[skill].group, SKILLS[skill].parts)


@pytest.mark.parametrize("skill", CHECKED)
def test_answers_agree_with_a_slow_twin(skill):
    for each in examples(skill, "test", 60):
        assert each.answer == _slowly(skill, *_texts(each.prompt))


@pytest.mark.parametrize("skill", [name for name in COMPOSED if set(SKILLS[name].parts) <= set(CHECKED)])
def test_composed_answers_are_the_parts_answers_in_order(skill):
    for each in examples(skill, "test", 30):
        answers = [_slowly(part, text) for part, text in zip(each.parts, _texts(each.prompt), strict=True)]
        assert each.answer == " & ".join(answers)


def test_only_the_whole_answer_is_correct():
    example = Example("sort: ba =", "ab", "sort", "held-in", 1, ("sort",))
    assert is_correct(example, " ab\n")
    assert is_correct(example, "ab</s>more")
    assert not is_correct(example, "abb")
    assert not is_correct(example, "")


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(RosterError, match="'reverse'"):
        examples("revers", "test", 1)
    with pytest.raises(RosterError, match="'validation'"):
        examples("sort", "valid", 1)
