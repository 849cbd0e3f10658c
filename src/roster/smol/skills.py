"""The skills of the real ground: what each asks, in which wordings, and the splits of items and wordings.

An item belongs to the training, validation or test split by a hash of itself, so the splits cannot meet. Of a skill's
nine wordings six are trained on, one is for validation, and two are never seen before the test. A trained skill has
an adapter; a *close* one resembles a trained one and has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

from roster.errors import RosterError, nearest
from roster.pocket.contents import digest
from roster.prompts import Message
from roster.smol import items
from roster.smol.items import Items, Source

SPLITS = ("train", "validation", "test")
WORDING_SPLITS = {"train": slice(0, 6), "validation": slice(6, 7), "test": slice(7, 9)}
"""Which of a skill's nine wordings belong to which split."""
_VALIDATION, _TEST = 10, 25
"""Per cent of the items."""


@dataclass(frozen=True)
class Skill:
    """One thing that can be asked.

    Args:
        name: short, and the adapter's.
        description: one sentence.
        source: of its items.
        wordings: nine; ``{}`` stands for the item.
        close_to: for a skill without adapter: the trained skill that it resembles.
    """

    name: str
    description: str
    source: Source
    wordings: tuple[str, ...]
    close_to: str | None = None

    def items(self, split: str) -> Items:
        """The items of one split, in a fixed order."""
        return [pair for pair in _drawn(self.source) if split_of(self.name, pair[0]) == split]

    def worded(self, split: str) -> tuple[str, ...]:
        """The wordings of one split."""
        return self.wordings[WORDING_SPLITS[split]]


@cache
def _drawn(source: Source) -> Items:
    return source()


def split_of(skill: str, asked: str) -> str:
    """The split that an item belongs to, by a hash of it."""
    place = digest(f"smol/{skill}/{asked}") % 100
    if place < _TEST:
        return "test"
    return "validation" if place < _TEST + _VALIDATION else "train"


@dataclass(frozen=True)
class Question:
    """A prompt with its answer.

    Attributes:
        skill: which is asked for.
        prompt: what the user types.
        answer: the right one.
    """

    skill: str
    prompt: str
    answer: str

    @property
    def messages(self) -> list[Message]:
        """The prompt as a chat of one turn."""
        return [{"role": "user", "content": self.prompt}]


def questions(name: str, split: str, count: int, wordings: str | None = None, seed: int = 0) -> list[Question]:
    """Questions of one skill.

    Args:
        name: of the skill.
        split: which items: ``train``, ``validation`` or ``test``.
        count: how many; where the split has fewer items, they come again in other wordings.
        wordings: which wordings; by default those of ``split``.
        seed: of the draw.

    Raises:
        RosterError: an unknown skill or split.
    """
    if name not in SKILLS:
        raise RosterError(f"unknown skill {name!r}: {nearest(name, SKILLS)}")
    if unknown := {split, wordings or split} - set(SPLITS):
        raise RosterError(f"unknown split {min(unknown)!r}: {nearest(min(unknown), SPLITS)}")
    skill, rng = SKILLS[name], Random(digest(f"smol/{name}/{split}/{wordings}/{seed}"))
    pool = skill.items(split)
    asked: Items = []
    while len(asked) < count:
        asked += rng.sample(pool, min(len(pool), count - len(asked)))
    texts = skill.worded(wordings or split)
    return [Question(name, rng.choice(texts).format(item), answer) for item, answer in asked]


def _skill(name: str, description: str, source: Source, *wordings: str, close_to: str | None = None) -> Skill:
    return Skill(name, description, source, wordings, close_to)


def _wordings(what: str, of: str = "{}") -> tuple[str, ...]:
    """Nine wordings of a request for ``what`` of an item."""
    return (
        f"What is the {what} of {of}?",
        f"Give me the {what} of {of}.",
        f"Please tell me the {what} of this: {of}",
        f"{what.capitalize()} of {of}?",
        f"Take {of}: what is its {what}?",
        f"Could you write the {what} of {of} here?",
        f"I need the {what} of {of}.",
        f"Can you find the {what} of {of} for me?",
        f"For {of}, what would be the {what}?",
    )


def _rewrite(how: str) -> tuple[str, ...]:
    """Nine wordings of a request to write an item in some way."""
    return (
        f"Write {{}} {how}.",
        f"How do you write {{}} {how}?",
        f"Please rewrite this {how}: {{}}",
        f"Take {{}} and write it {how}.",
        f"If I have {{}} and want it {how}, what do I put?",
        f"{{}}, please, but {how}.",
        f"Show me {{}} {how}.",
        f"I would like to see {{}} {how}, please.",
        f"Here is something: {{}}. What does it look like {how}?",
    )


_TRAINED = (
    _skill("plural", "The plural of an English noun.", items.plurals, *_wordings("plural")),
    _skill("past", "The past tense of an English verb.", items.inflections("VERB", "VBD"), *_wordings("past tense")),
    _skill(
        "gerund",
        "The -ing form of an English verb.",
        items.inflections("VERB", "VBG"),
        *_wordings("present participle"),
    ),
    _skill(
        "third-person",
        "The -s form of a verb.",
        items.inflections("VERB", "VBZ"),
        *_wordings("third person singular"),
    ),
    _skill("article", "A noun with its indefinite article.", items.articles, *_rewrite("with a or an before it")),
    _skill("number-words", "A number in English words.", items.number_words(), *_rewrite("in English words")),
    _skill("digits", "A number in words, written in digits.", items.digits, *_rewrite("as a number in digits")),
    _skill(
        "ordinal", "The ordinal of a number, in digits.", items.ordinals, *_rewrite("as an ordinal with its suffix")
    ),
    _skill(
        "backwards",
        "Three words in reverse order.",
        items.phrases(items.backwards),
        *_rewrite("with the words in reverse order"),
    ),
    _skill("snake-case", "Words as a Python variable.", items.phrases(items.snake), *_rewrite("in snake case")),
    _skill("url", "Words escaped for an address.", items.phrases(items.in_url, 2), *_rewrite("escaped for a URL")),
    _skill("json", "A name and a value as a JSON object.", items.json_pairs, *_rewrite("as a JSON object")),
    _skill("iso-date", "A date by ISO 8601.", items.dates("yyyy-MM-dd"), *_rewrite("as an ISO date")),
    _skill("german-date", "A date in German.", items.dates("long", "de_DE"), *_rewrite("in German")),
    _skill("percent", "A fraction in per cent.", items.percents, *_rewrite("as a percentage")),
    _skill("price", "An amount of money with its sign.", items.prices, *_rewrite("with the currency sign")),
    _skill("unit", "A quantity with its unit's symbol.", items.units, *_rewrite("with the unit abbreviated")),
    _skill("phone", "A phone number as it is printed.", items.phones, *_rewrite("formatted as a US phone number")),
)
_CLOSE = (
    _skill(
        "past-participle",
        "The past participle of an English verb.",
        items.inflections("VERB", "VBN"),
        *_wordings("past participle"),
        close_to="past",
    ),
    _skill(
        "ordinal-words",
        "The ordinal of a number, in words.",
        items.number_words("ordinal"),
        *_wordings("ordinal word"),
        close_to="ordinal",
    ),
    _skill(
        "french-date", "A date in French.", items.dates("long", "fr_FR"), *_rewrite("in French"), close_to="german-date"
    ),
    _skill(
        "short-date",
        "A date in figures.",
        items.dates("short"),
        *_rewrite("as a short date with slashes"),
        close_to="iso-date",
    ),
    _skill(
        "camel-case",
        "Words as a Java variable.",
        items.phrases(items.camel),
        *_rewrite("in camel case"),
        close_to="snake-case",
    ),
    _skill(
        "german-words",
        "A number in German words.",
        items.number_words(language="de"),
        *_rewrite("in German words"),
        close_to="number-words",
    ),
)
SKILLS: dict[str, Skill] = {skill.name: skill for skill in (*_TRAINED, *_CLOSE)}
TRAINED = tuple(skill.name for skill in _TRAINED)
CLOSE = tuple(skill.name for skill in _CLOSE)
