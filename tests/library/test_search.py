"""Experts are found by what their cards say."""

import pytest
import torch

from roster import RosterError
from roster.library import Card, Library, LowRank, find, make_adapter

CARDS = [
    Card(task="sql", description="Writes database queries.", examples=["List all customers from Paris."]),
    Card(task="poems", description="Writes poems that rhyme.", examples=["Write a poem on autumn leaves."]),
    Card(task="summaries", description="Summarises long reports.", examples=["Sum this report up in one line."]),
    Card(task="Übersetzung", description="German to English", examples=["Was heißt Straße?"]),
]


def library_of(cards):
    update = LowRank(torch.ones(1, 2), torch.ones(2, 1), 1.0)
    return Library({card.task: make_adapter(card.task, {"layer": update}, "b", card) for card in cards})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a query for the database", "sql"),
        ("rhyming poem", "poems"),
        ("summarise the report", "summaries"),
        ("customers in Paris", "sql"),
        ("übersetzung", "Übersetzung"),
        ("STRASSE straße", "Übersetzung"),
    ],
)
def test_the_best_comes_first(text, expected):
    found = find(library_of(CARDS), text)
    assert found[0][0] == expected
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 + 1e-9 for score in scores)


def test_count():
    assert len(find(library_of(CARDS), "writes a report in English", count=2)) == 2
    with pytest.raises(RosterError, match="at least 1, not 0"):
        find(library_of(CARDS), "poem", count=0)


@pytest.mark.parametrize("text", ["", "   ", "漢字"])
def test_nothing_in_common(text):
    assert find(library_of(CARDS), text) == []


def test_cards_that_say_nothing():
    assert find(library_of([Card(task=" ")]), "poem") == []
