"""Searches under a budget, on made-up learning curves whose best settings are known."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from roster.arena.moe.pretrain import Terms
from roster.arena.moe.search import parse_space, search_recipe
from roster.errors import RosterError
from roster.recipes import find
from roster.search import METHODS, Range, Search, search

pytest.importorskip("optuna", reason="Optuna is not installed (roster-moe[search])")
MOST, BEST = 81, 0.37
SPACE = {"x": Range(0.0, 1.0), "kind": ("plain", "worse")}


def curve(settings, report, die_at=None):
    """Loss falls to the square of the distance from the planted best; what is best early on is best in the end."""
    end = (settings["x"] - BEST) ** 2 + (settings["kind"] == "worse")
    for step in range(1, MOST + 1):
        report(step, end + math.exp(-step / 20))
    return end


def killed(path, settings, report):
    """Cut off once, in the middle of its third trial."""
    path.write_text(path.read_text() + "." if path.exists() else ".")
    if path.read_text() == "...":
        report(1, 0.5)
        raise KeyboardInterrupt
    return curve(settings, report)


def found(way, folder, trials=30, objective=curve, space=SPACE, **kwargs):
    return search(METHODS.get(way, way), objective, space, trials=trials, most=MOST, folder=folder, **kwargs)


@pytest.mark.parametrize("way", ["hyperband", "asha", "bohb"])
def test_a_planted_best_is_found_with_a_third_of_the_steps(way, tmp_path):
    """Beside random settings that are all trained to the end: closer, at a third of their steps."""
    ours, theirs = [], []
    for seed in range(3):
        ran = found(way, tmp_path / f"{way}{seed}", seed=seed)
        full = ran.steps * 3 // MOST
        random = np.random.default_rng(seed).random((full, 2))
        theirs.append(min((x - BEST) ** 2 + (kind > 0.5) for x, kind in random))
        ours.append(ran.best.loss)
        assert ran.steps < 30 * MOST / 2
    assert np.mean(ours) <= np.mean(theirs)
    assert max(ours) < 0.01


@pytest.mark.parametrize("way", ["tpe", "bo"])
def test_a_model_of_what_was_seen_beats_chance_at_equal_trials(way, tmp_path):
    space = {"x": Range(0.0, 1.0), "y": Range(1e-4, 1.0, log=True)}
    ran = found(way, tmp_path, 18, space=space, objective=valley)
    random = [
        min((x - BEST) ** 2 + (4 * y - 2) ** 2 / 16 for x, y in np.random.default_rng(seed).random((18, 2)))
        for seed in range(50)
    ]
    assert ran.best.loss < np.median(random)
    assert all(each.whole for each in ran.trials)


def valley(settings, report):
    return (settings["x"] - BEST) ** 2 + (math.log10(settings["y"]) + 2) ** 2 / 16


def test_rungs_are_the_formulas(tmp_path):
    way = METHODS["hyperband"]
    assert way.rungs(MOST) == [1, 3, 9, 27]
    assert Search(least=10, eta=4).rungs(300) == [10, 40, 160]
    pruner = way.pruner(MOST)
    ran = found("hyperband", tmp_path)
    assert {each.steps for each in ran.trials} <= {1, 3, 9, 27, MOST}
    # n = ceil((s_max + 1) / (s + 1) * eta^s) settings begin in bracket s, as shares of the trials.
    wanted = [math.ceil(5 / (s + 1) * 3**s) for s in (4, 3, 2, 1, 0)]
    pruner._n_brackets = 5
    assert [pruner._calculate_trial_allocation_budget(each) for each in range(5)] == wanted


def test_a_search_that_was_cut_off_goes_on(tmp_path):
    objective = partial(killed, tmp_path / "counted")
    with pytest.raises(KeyboardInterrupt):
        found("random", tmp_path / "cut", 6, objective=objective)
    told = []
    went_on = found("random", tmp_path / "cut", 6, objective=objective, report=told.append)
    assert [line.partition(":")[0] for line in told] == ["3/6", "4/6", "5/6", "6/6"]
    whole = found("random", tmp_path / "whole", 6)
    assert went_on.trials == whole.trials, "each trial's draws are its number's"
    assert went_on.trials == found("random", tmp_path / "cut", 6).trials


def test_what_others_share_a_folder_with_is_refused(tmp_path):
    found("random", tmp_path, 2)
    with pytest.raises(RosterError, match="holds a search with seed=0, not 1"):
        found("random", tmp_path, 2, seed=1)
    with pytest.raises(RosterError, match="nothing to search"):
        found("random", tmp_path, 2, space={})
    with pytest.raises(RosterError, match="cannot be stopped after 81"):
        found(Search(least=81), tmp_path / "other", 2)
    with pytest.raises(RosterError, match="no range"):
        Range(1.0, 1.0)


def test_losses_that_are_no_numbers_are_the_worst(tmp_path):
    ran = found("hyperband", tmp_path, 6, objective=lambda settings, report: report(1, math.nan) or 1.0)
    assert ran.best.loss == 1.0
    with pytest.raises(RosterError, match="no trial came to its end"):
        found("random", tmp_path / "b", 2, objective=lambda settings, report: math.nan).best  # noqa: B018


def test_spaces_as_they_are_typed():
    recipe = find("gshard-top2")
    space = parse_space(recipe, ["k=1,2", "balance=0.001..0.1:log", "num_experts=2..8"])
    assert space == {"k": (1, 2), "balance": Range(0.001, 0.1, log=True), "num_experts": Range(2, 8, whole=True)}
    with pytest.raises(RosterError, match="did you mean 'balance'"):
        parse_space(recipe, ["balanc=1,2"])
    for wrong in ("k", "k=", "k=1..b", "k=1..2:exp"):
        with pytest.raises(RosterError, match=r"takes name=value|a range is"):
            parse_space(recipe, [wrong])


def test_a_recipe_is_searched_and_judged_on_other_seeds(tmp_path):
    terms = Terms(steps=6, rows=3, length=16, width=16, layers=1, heads=2, hidden=16, validation_rows=2)
    space = {"k": (1, 2), "learning_rate": Range(1e-5, 1e-1, log=True)}
    made = partial(search_recipe, "gshard-top2", space, terms, Search(least=2), trials=4, folder=tmp_path, confirm=1)
    result = made()
    assert result["judged_on_seeds"] == [1]
    assert result["trials"][0]["settings"] == {"k": 2, "learning_rate": terms.learning_rate}, "the defaults come first"
    assert result["steps"] <= result["steps_without_stopping"] == 24
    assert result["gain_over_defaults"]["mean"] == result["loss_of_defaults"]["mean"] - result["loss_of_best"]["mean"]
    before = {path: path.stat().st_mtime_ns for path in Path(tmp_path).rglob("*.json")}
    assert made() == result
    assert {path: path.stat().st_mtime_ns for path in Path(tmp_path).rglob("*.json")} == before, "nothing is run twice"
