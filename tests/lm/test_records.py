"""Records: what they refuse, how they are split and de-duplicated, and what comes with roster."""

from dataclasses import replace

import numpy as np
import pytest

from lm import tiny
from roster.errors import RosterError
from roster.lm import data
from roster.lm.prices import Price, check_prices, cost_of_calls
from roster.lm.splits import carve_validation, deduplicate, hold_out, same, split_at_random
from texts import needed


def test_models_are_found_by_name():
    made = tiny.records()
    turned = made.only(["dog-person", "cat-person"])
    assert turned.models == ("dog-person", "cat-person")
    np.testing.assert_array_equal(turned.score_NM[:, 1], made.score_NM[:, 0])
    with pytest.raises(RosterError, match="did you mean 'cat-person'"):
        made.only(["cat-prson"])


def test_refusals():
    made = tiny.records(10)
    with pytest.raises(RosterError, match="shape"):
        replace(made, score_NM=made.score_NM[:5])
    with pytest.raises(RosterError, match="twice"):
        replace(made, models=("a", "a", "b"))
    with pytest.raises(RosterError, match=r"unknown split 'tst'.*'test'"):
        replace(made, splits=("tst",) * 10)


def test_missing_cells_are_counted():
    score_NM = tiny.records(10).score_NM.copy()
    score_NM[3, 1] = np.nan
    assert tiny.records(10, score_NM=score_NM).missing == {"score": 1, "cost": 0, "delay": 0}


def test_a_question_of_the_test_leaves_training():
    prompts = ("one", "two", "ONE ", "three", "three")
    made = tiny.records(5, prompts=prompts, splits=("train", "train", "test", "train", "train"))
    left = deduplicate(made)
    assert left.prompts == ("two", "ONE ", "three")
    assert left.splits == ("train", "test", "train")
    assert any(note.startswith("1 prompts were removed because") for note in left.notes)
    assert any(note.startswith("1 repeated") for note in left.notes)


def test_splits():
    made = split_at_random(tiny.records(), (0.5, 0.25, 0.25), seed=1)
    for animal in tiny.ANIMALS:
        of_it = [split for split, each in zip(made.splits, made.datasets, strict=True) if each == animal]
        assert of_it.count("train") / len(of_it) == pytest.approx(0.5, abs=0.02)
    no_validation = replace(made, splits=tuple("train" if s == "validation" else s for s in made.splits))
    carved = carve_validation(no_validation, 0.2)
    assert carved.splits.count("validation") == round(0.2 * no_validation.splits.count("train"))
    assert carved.splits.count("test") == made.splits.count("test")
    apart = hold_out(made, "cat")
    assert set(apart.split("test").datasets) == {"cat"}
    assert "cat" not in apart.split("train").datasets
    with pytest.raises(RosterError, match=r"no data set 'cats'.*'cat'"):
        hold_out(made, "cats")


def test_prices_must_match_models():
    prices = {"a": Price(1.0, 2.0), "b": Price(3.0, 4.0)}
    cost_NM = cost_of_calls(["x" * 400], ["a", "b"], prices, np.array([[50.0, 10.0]]))
    np.testing.assert_allclose(cost_NM, [[(100 * 1 + 50 * 2) / 1e6, (100 * 3 + 10 * 4) / 1e6]])
    with pytest.raises(RosterError, match="model 'c' has no price"):
        check_prices(prices, ["a", "b", "c"])
    with pytest.raises(RosterError, match="price for 'b', but no such model"):
        check_prices(prices, ["a"])
    with pytest.raises(RosterError, match="at least 0"):
        Price(-1.0, 2.0)


@pytest.mark.parametrize("name", data.LOADERS)
def test_recorded_data(name):
    needed(name)
    made = data.load(name)
    asked = [same(prompt) for prompt in made.prompts]
    assert len(set(asked)) == len(asked), "a prompt occurs twice, so it may be on both sides of a split"
    scores = made.score_NM[np.isfinite(made.score_NM)]
    assert ((scores >= 0) & (scores <= 1)).all()
    if name == "smoothie-cnn":
        assert made.missing["score"] == made.score_NM.size
        assert made.answer_NM is not None
    else:
        assert made.missing["score"] == made.missing["cost"] == 0
        assert made.splits.count("test") >= 10


@pytest.mark.parametrize("name", [name for name in data.LOADERS if name != "smoothie-cnn"])
def test_figures_alone_are_those_of_the_texts(name):
    bare = data.load(name, texts=False)
    assert len(set(bare.prompts)) == len(bare)
    assert bare.missing["score"] == bare.missing["cost"] == 0
    needed(name)
    whole = data.load(name)
    np.testing.assert_array_equal(bare.score_NM, whole.score_NM)
    np.testing.assert_array_equal(bare.cost_NM, whole.cost_NM)
    assert (bare.models, bare.datasets, bare.splits) == (whole.models, whole.datasets, whole.splits)
    assert bare.notes == whole.notes


def test_llmrouter_is_as_its_source_says():
    made = data.load("llmrouter", texts=False)
    assert (made.splits.count("train"), made.splits.count("test")) == (5608 - 119, 500)
    assert not {"human_eval", "gpqa"} - set(made.split("test").datasets)
    # By name: this first test question was answered by two models, whatever the order of the file's keys.
    first = made.split("test").rows(np.array([0]))
    right = {model for model, score in zip(first.models, first.score_NM[0], strict=True) if score}
    assert right == {"mistral-7b-instruct-v0.3", "gemma-2-9b-it"}


def test_unknown_data():
    with pytest.raises(RosterError, match="did you mean 'llmrouter'"):
        data.load("llm-router")
