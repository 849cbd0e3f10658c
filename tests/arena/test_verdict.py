"""The verdict: what routing gains over the same folder without it, then how far the bound is."""

import pytest

from roster.arena.verdict import Standing, verdict


def standing(name, kind, right, of=100):
    return Standing(name, name.capitalize(), kind, [1.0] * right + [0.0] * (of - right))


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (60, "Routing gains 30.0 points over the best that the same folder gives without it"),
        (31, "Routing cannot be told from the best"),
        (5, "Routing loses 25.0 points to the best"),
    ],
)
def test_the_first_line_compares_with_the_best_of_the_same_folder(right, words):
    others = [standing("base", "baseline", 2), standing("merged", "baseline", 30), standing("pooled", "reference", 90)]
    first = verdict([*others, standing("router", "recipe", right)])[0]
    assert first.startswith(words)
    assert f"Router answers {right}.0 % right, Merged 30.0 %" in first
    assert "Pooled" not in first, "what needs more than the folder is no baseline"


def test_then_comes_the_bound_and_what_pooled_training_gives():
    ways = [standing("base", "baseline", 2), standing("auto", "recipe", 72), standing("lucky", "recipe", 80)]
    ways += [standing("oracle", "bound", 80), standing("pooled", "reference", 90)]
    first, bound, pooled = verdict(ways, " here")
    assert "Auto answers 72.0 % right here" in first, "`auto` speaks for routing, not the best of many on these prompts"
    assert "Oracle (80.0 %)" in bound
    assert "reaches 90 % of that, a distance of 8.0 points" in bound
    assert "every new skill, answers 90.0 % right: a distance of 18.0 points" in pooled


def test_without_a_router_nothing_is_said_of_routing():
    assert verdict([standing("base", "baseline", 2)]) == [
        "Only baselines were run, so there is nothing to say about routing."
    ]
