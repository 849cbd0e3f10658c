"""What each skill asks about, and the right answers: pairs drawn from packages at run time, the same at each call.

A source is a function without arguments that returns ``(asked, answer)`` pairs; the same text is never asked twice.
How a question is worded is the matter of ``skills``.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable
from random import Random
from urllib.parse import quote

from roster.pocket.contents import digest
from roster.smol.words import inflected, of_kind

Items = list[tuple[str, str]]
Source = Callable[[], Items]

_DRAWN = 900
"""Items of sources that could go on for ever."""
_DAYS = 365 * 60


def _unique(pairs: Iterable[tuple[str, str]]) -> Items:
    return list(dict(pairs).items())


def plurals() -> Items:
    """Nouns whose plural `inflect` and `lemminflect` agree on."""
    import inflect

    engine = inflect.engine()
    pairs = ((noun, inflected(noun, "NNS")) for noun in of_kind("NOUN"))
    return [(noun, form) for noun, form in pairs if form and form != noun and engine.plural_noun(noun) == form]


def inflections(kind: str, tag: str) -> Source:
    """A source of words of one kind and their form with a Penn Treebank tag."""

    def source() -> Items:
        pairs = ((word, inflected(word, tag)) for word in of_kind(kind))
        return [(word, form) for word, form in pairs if form and form != word]

    return source


def articles() -> Items:
    """Nouns with the article that `inflect` gives them."""
    import inflect

    engine = inflect.engine()
    return [(noun, engine.a(noun)) for noun in of_kind("NOUN")]


def number_words(to: str = "cardinal", language: str = "en") -> Source:
    """A source of the numbers below 1000 in words, by `num2words`; those below 100 come first."""

    def source() -> Items:
        from num2words import num2words  # type: ignore[import-untyped]

        return [(str(number), num2words(number, to=to, lang=language)) for number in range(1, 200)]

    return source


def digits() -> Items:
    """Numbers in words and their digits."""
    return [(words, number) for number, words in number_words()()]


def ordinals() -> Items:
    """Numbers and their ordinal in digits, by `inflect`."""
    import inflect

    engine = inflect.engine()
    return [(str(number), engine.ordinal(str(number))) for number in range(1, 400)]


def phrases(change: Callable[[list[str]], str], count: int = 3) -> Source:
    """A source of so many frequent words in a row, and what ``change`` makes of them."""

    def source() -> Items:
        rng, words = Random(digest(f"phrases/{count}")), of_kind("NOUN")[:800]
        drawn = (rng.sample(words, count) for _ in range(_DRAWN))
        return _unique((" ".join(each), change(each)) for each in drawn)

    return source


def backwards(words: list[str]) -> str:
    """The words in reverse order."""
    return " ".join(reversed(words))


def snake(words: list[str]) -> str:
    """The words in snake case, by `inflection`."""
    import inflection

    return inflection.underscore(inflection.parameterize(" ".join(words)))


def camel(words: list[str]) -> str:
    """The words in camel case, by `inflection`."""
    import inflection

    return inflection.camelize(snake(words), uppercase_first_letter=False)


def in_url(words: list[str]) -> str:
    """The words as a part of an address, by `urllib`."""
    return quote(" ".join(words))


def json_pairs() -> Items:
    """A name with a value, and the JSON object of it."""
    rng, names = Random(digest("json")), of_kind("NOUN")[:600]
    drawn = (rng.sample(names, 2) for _ in range(_DRAWN))
    return _unique((f"{name} is {value}", json.dumps({name: value})) for name, value in drawn)


def dates(style: str, locale: str = "en_US") -> Source:
    """A source of dates as Americans write them, and in another style or language, by `Babel`.

    Args:
        style: a Babel format or a pattern.
        locale: whose language.
    """

    def source() -> Items:
        from babel.dates import format_date

        rng, first = Random(digest("dates")), datetime.date(1970, 1, 1)
        days = [first + datetime.timedelta(days=rng.randrange(_DAYS)) for _ in range(_DRAWN)]
        return _unique(
            (format_date(day, "long", locale="en_US"), format_date(day, style, locale=locale)) for day in days
        )

    return source


def percents() -> Items:
    """Decimal fractions and per cents, by `Babel`."""
    from babel.numbers import format_percent

    return [(f"{part / 1000:g}", format_percent(part / 1000, "0.#%", locale="en_US")) for part in range(1, 1000)]


def prices() -> Items:
    """Amounts with the currency's name, and with its sign, by `Babel`."""
    from babel.numbers import format_currency, get_currency_name

    rng, currencies = Random(digest("prices")), ("USD", "EUR", "GBP", "JPY", "INR")
    drawn = ((rng.randrange(2, 1000), rng.choice(currencies)) for _ in range(_DRAWN))
    return _unique(
        (f"{count} {get_currency_name(code, count, 'en_US')}", format_currency(count, code, locale="en_US"))
        for count, code in drawn
    )


def units() -> Items:
    """Amounts with the unit's name, and with its symbol, by `pint`."""
    import pint

    rng = Random(digest("units"))
    registry: pint.UnitRegistry[float] = pint.UnitRegistry()
    prefixes, names = ("", "kilo", "milli", "mega", "centi"), ("meter", "gram", "liter", "watt", "volt", "second")
    drawn = ((rng.randrange(2, 500), rng.choice(prefixes) + rng.choice(names)) for _ in range(_DRAWN))
    return _unique((f"{count} {name}s", f"{count} {registry.Unit(name):~}") for count, name in drawn)


def phones() -> Items:
    """American phone numbers as ten digits, and as they are printed, by `phonenumbers`."""
    import phonenumbers

    rng = Random(digest("phones"))
    drawn = (
        f"{rng.choice((201, 202, 212, 303, 415, 617, 718))}{rng.randrange(2_000_000, 9_999_999)}" for _ in range(700)
    )
    style = phonenumbers.PhoneNumberFormat.NATIONAL
    return _unique((each, phonenumbers.format_number(phonenumbers.parse(each, "US"), style)) for each in drawn)
