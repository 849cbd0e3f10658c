"""The skill suite: small text tasks with checkable answers, in three groups.

- *held-in*: an expert exists for each;
- *unseen*: no expert exists, but most are relatives of a held-in skill: the same operation on characters or in
  wordings that no expert met, or a close variant of it;
- *composed*: two held-in skills in one prompt, both answers wanted in order, ``reverse: abcd & sort: dbca =``
  ``dcba & abcd``. One expert for the whole sequence cannot win these: it answers its own part and copies or spoils the
  other. Each part's expert, asked alone, answers its part.

A prompt ends in ``=``; the answer follows at once, then the end of the sequence. Everything is drawn from fixed
seeds, the same on every machine. How texts are split is in ``contents``, what is right in ``operations``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from roster.errors import RosterError, nearest
from roster.pocket import contents, operations
from roster.pocket.contents import SPLITS, Draw, below, digest, split_of

LENGTHS = ((3, 4), (5, 6), (7, 8))
"""Fewest and most characters of a text at levels 1, 2 and 3."""
PART_LENGTHS = ((3, 3), (4, 4), (5, 6))
"""The same for each part of a two-part prompt."""
SHORT_LENGTHS = ((3, 4), (4, 5), (5, 6))
"""The same for the operations that are hardest to learn."""
WORD_LENGTHS = ((2, 2), (3, 3), (4, 4))
"""The same for texts of words: how many words."""
JOIN = " & "
"""Stands between the parts of a prompt, and of its answer."""
TRIES = 50
"""How often a draw that came before in the same call is drawn again before it is accepted."""


@dataclass(frozen=True)
class Example:
    """One question and its answer.

    Args:
        prompt: what the model is given; ends in ``=``.
        answer: what it must generate before the end of the sequence.
        skill: name in ``SKILLS``.
        group: ``'held-in'``, ``'unseen'`` or ``'composed'``.
        level: 1 (short) to 3 (long).
        parts: the held-in skills needed, in order; for an unseen skill its relatives, which may be none.
    """

    prompt: str
    answer: str
    skill: str
    group: str
    level: int
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Skill:
    """One kind of question.

    Args:
        name: unique, in lower case with hyphens.
        description: one English sentence.
        group: as in ``Example``.
        wordings: the instructions it may be given in; empty for a composed skill, whose parts bring theirs.
        answer: text -> right answer; ``None`` for a composed skill.
        draw: draws a text; ``None`` for a composed skill.
        lengths: fewest and most characters per level.
        parts: as in ``Example``.
    """

    name: str
    description: str
    group: str
    wordings: tuple[str, ...]
    answer: Callable[[str], str] | None
    draw: Draw | None
    lengths: tuple[tuple[int, int], ...] = LENGTHS
    parts: tuple[str, ...] = ()

    def ask(self, rng: Random, split: str, lengths: tuple[int, int], wording: int) -> tuple[str, str]:
        """One question without its ``=``, and its answer; the text is one that ``split`` owns."""
        assert self.draw is not None
        assert self.answer is not None
        fewest, most = lengths
        while True:
            text = self.draw(rng, fewest + below(rng, most - fewest + 1))
            if split_of(text) == split:
                return f"{self.wordings[wording % len(self.wordings)]}: {text}", self.answer(text)


def _held_in(
    name: str,
    description: str,
    wordings: tuple[str, ...],
    draw: Draw = contents.letters,
    lengths: tuple[tuple[int, int], ...] = LENGTHS,
) -> Skill:
    operation = getattr(operations, "add_one" if name == "digits" else name)
    return Skill(name, description, "held-in", wordings, operation, draw, lengths, (name,))


COPY = Skill(
    "copy",
    "Write the text again as it is.",
    "held-in",
    ("copy", "repeat", "say again", "write the same"),
    operations.copy,
    contents.letters,
)
"""What the base knows. No expert, and not in ``SKILLS``: it keeps an expert company in two-part training prompts."""

_HELD_IN = (
    _held_in("reverse", "Write the text backwards.", ("reverse", "write backwards", "flip around")),
    _held_in(
        "sort",
        "Put the letters in alphabetical order.",
        ("sort", "put in order", "arrange a to z"),
        contents.distinct,
        SHORT_LENGTHS,
    ),
    _held_in(
        "shift",
        "Replace each letter by the next one of the alphabet.",
        ("next letters", "shift by one", "one letter on"),
    ),
    _held_in("upper", "Write the letters as capitals.", ("uppercase", "make big", "use capitals")),
    _held_in("vowels", "Keep the vowels only.", ("keep vowels", "only vowels", "vowels of"), contents.voweled),
    _held_in(
        "consonants",
        "Leave the vowels out.",
        ("drop vowels", "no vowels", "consonants of"),
        contents.voweled,
        SHORT_LENGTHS,
    ),
    _held_in("twice", "Write each letter twice.", ("double", "each twice", "stutter")),
    _held_in("rotate", "Move the first letter to the end.", ("rotate", "first to end", "roll left")),
    _held_in("swap", "Let neighbouring letters change places.", ("swap pairs", "trade places", "switch twos")),
    _held_in("alternate", "Keep every second letter, from the first.", ("every second", "skip some", "odd places")),
    _held_in("digits", "Replace each digit by the next one.", ("add one", "digits up", "count on"), contents.digits),
    _held_in(
        "initials",
        "Take the first letter of each word.",
        ("initials", "first letters", "word starts"),
        contents.words,
        WORD_LENGTHS,
    ),
)


def _unseen(name: str, description: str, like: str, draw: Draw | None = None, wordings: Sequence[str] = ()) -> Skill:
    """A relative of the held-in skill ``like``: its operation on texts from ``draw``, or in other ``wordings``."""
    relative = next(skill for skill in _HELD_IN if skill.name == like)
    operation = getattr(operations, name.replace("-", "_"), relative.answer)
    return Skill(
        name,
        description,
        "unseen",
        tuple(wordings) or relative.wordings,
        operation,
        draw or relative.draw,
        relative.lengths,
        (like,),
    )


_UNSEEN = (
    _unseen("reverse-digits", "Write a number backwards.", "reverse", contents.digits),
    _unseen("rotate-digits", "Move the first digit to the end.", "rotate", contents.digits),
    _unseen("twice-mixed", "Write each letter or digit twice.", "twice", contents.mixed),
    _unseen("swap-capitals", "Let neighbouring capitals change places.", "swap", contents.capitals),
    _unseen("alternate-digits", "Keep every second digit, from the first.", "alternate", contents.digits),
    _unseen("sort-digits", "Put the digits in order.", "sort", contents.digits),
    _unseen(
        "upper-reworded",
        "Write the letters as capitals, asked in words that no expert met.",
        "upper",
        wordings=("in capitals", "all caps", "make it uppercase"),
    ),
    _unseen(
        "reverse-reworded",
        "Write the text backwards, asked in words that no expert met.",
        "reverse",
        wordings=("backwards", "in reverse", "flip it"),
    ),
    _unseen(
        "rotate-right",
        "Move the last letter to the front.",
        "rotate",
        wordings=("rotate right", "last to front", "roll right"),
    ),
    _unseen(
        "shift-two",
        "Replace each letter by the one after the next.",
        "shift",
        wordings=("shift by two", "two letters on", "skip one letter"),
    ),
    _unseen(
        "count-vowels",
        "Say how many vowels there are.",
        "vowels",
        wordings=("count vowels", "how many vowels", "number of vowels"),
    ),
    Skill(
        "dedupe",
        "Write each letter once, where it came first.",
        "unseen",
        ("remove repeats", "no duplicates", "unique"),
        operations.dedupe,
        contents.repeated,
    ),
)

_PAIRS = (
    ("reverse", "sort"),
    ("upper", "twice"),
    ("shift", "reverse"),
    ("sort", "vowels"),
    ("rotate", "upper"),
    ("swap", "shift"),
    ("twice", "vowels"),
    ("consonants", "alternate"),
    ("digits", "rotate"),
    ("initials", "swap"),
)


def _composed(first: str, second: str) -> Skill:
    return Skill(
        f"{first}+{second}",
        f"Two questions in one prompt: {first}, then {second}.",
        "composed",
        (),
        None,
        None,
        PART_LENGTHS,
        (first, second),
    )


SKILLS: dict[str, Skill] = {
    skill.name: skill for skill in (*_HELD_IN, *_UNSEEN, *(_composed(*pair) for pair in _PAIRS))
}
HELD_IN = tuple(name for name, skill in SKILLS.items() if skill.group == "held-in")
UNSEEN = tuple(name for name, skill in SKILLS.items() if skill.group == "unseen")
COMPOSED = tuple(name for name, skill in SKILLS.items() if skill.group == "composed")


def two_part(rng: Random, split: str, parts: Sequence[Skill], level: int, wording: int) -> tuple[str, str]:
    """A prompt that asks several things at once, and the answers in order: ``copy: ab & sort: ba =``, ``ab & ab``."""
    asked = []
    for part in parts:
        lengths = part.lengths if part.draw is contents.words else PART_LENGTHS
        wording, mine = divmod(wording, len(part.wordings))
        asked.append(part.ask(rng, split, lengths[level - 1], mine))
    questions, answers = zip(*asked, strict=True)
    return JOIN.join(questions) + " =", JOIN.join(answers)


def examples(skill: str, split: str, count: int, seed: int = 0) -> list[Example]:
    """Draw examples of one skill: levels and wordings take turns, so that any count covers them evenly.

    Args:
        skill: name in ``SKILLS``.
        split: ``'train'``, ``'validation'`` or ``'test'``; no text occurs in two of them.
        count: how many. The first ones are the same whatever the count.
        seed: another seed gives other examples of the same split (with overlap where texts are few).

    Raises:
        RosterError: unknown skill or split.
    """
    if skill not in SKILLS:
        raise RosterError(f"no skill is called {skill!r}; {nearest(skill, SKILLS)}")
    if split not in SPLITS:
        raise RosterError(f"no split is called {split!r}; {nearest(split, SPLITS)}")
    return draw_examples(SKILLS[skill], split, count, Random(digest(f"{skill}/{split}/{seed}")))


def draw_examples(skill: Skill, split: str, count: int, rng: Random) -> list[Example]:
    """What ``examples`` does, for any ``Skill`` and from a generator of the caller's."""
    drawn: list[Example] = []
    seen: set[str] = set()
    for index in range(count):
        level = index % len(skill.lengths) + 1
        wording = index // len(skill.lengths)
        for _ in range(TRIES):
            prompt, answer = _draw(skill, split, level, wording, rng)
            if prompt not in seen:
                break
        seen.add(prompt)
        drawn.append(Example(prompt, answer, skill.name, skill.group, level, skill.parts))
    return drawn


def _draw(skill: Skill, split: str, level: int, wording: int, rng: Random) -> tuple[str, str]:
    if skill.group == "composed":
        return two_part(rng, split, [SKILLS[part] for part in skill.parts], level, wording)
    question, answer = skill.ask(rng, split, skill.lengths[level - 1], wording)
    return f"{question} =", answer


def is_correct(example: Example, generated_text: str) -> bool:
    """Whether ``generated_text`` (the prompt not included) is exactly the answer, up to ``</s>`` and outer space."""
    return generated_text.split("</s>")[0].strip() == example.answer
