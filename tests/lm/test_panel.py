"""A panel recruits by fit, loads each model once, and joins answers as stated."""

import numpy as np
import pytest

from lm import tiny
from roster.errors import RosterError
from roster.lm.aggregation import ability, best_aggregators, trials
from roster.lm.panel import Panel, vote
from roster.recipes import find

MADE = tiny.with_answers(count=300)
TRAIN, TEST = MADE.split("train"), MADE.split("test")
FITTED = find("symbolic-moe").compose().fit(TRAIN)


def says(model, prompts):
    return [f"{model} on {prompt}" for prompt in prompts]


def echo_first(model, prompts, answers):
    return [f"{model} joins {len(each)}: {each[0]}" for each in answers]


@pytest.mark.parametrize(
    ("answers", "weights", "winner"),
    [
        (["a", "b", "b"], [0.9, 0.5, 0.5], 1),  # two that agree outweigh one that is better
        (["a", "b", "b"], [0.9, 0.4, 0.4], 0),
        (["a", "b", "c"], [0.5, 0.6, 0.5], 1),
        (["$1,200", "1200.0", "7"], [0.4, 0.4, 0.7], 0),
        ([None, None, "c"], [0.9, 0.9, 0.1], 2),
        ([None, "b", None], [0.9, 0.0, 0.9], 1),
        ([None, None, None], [0.1, 0.2, 0.3], 0),
        (["a", "b", "a"], [0.1, 0.3, 0.2], 0),  # a tie goes to the best suited
    ],
)
def test_vote_by_hand(answers, weights, winner):
    assert vote(np.array([answers], dtype=object), np.array([weights])).tolist() == [winner]


def test_recruits_are_the_best_suited_and_all_different():
    plan = Panel(FITTED, recruits=2).plan(TEST.prompts)
    quality_NM = FITTED.estimator.estimate(TEST.prompts).quality_NM
    for n, chosen in enumerate(plan.chosen_NK):
        assert chosen[0] == quality_NM[n].argmax()
        assert len(set(chosen.tolist())) == 2
        left_out = ({0, 1, 2} - set(chosen.tolist())).pop()
        assert quality_NM[n, left_out] <= plan.weight_NK[n].min()
    first_K1 = Panel(FITTED, recruits=1).plan(TEST.prompts).chosen_NK[:, 0]
    np.testing.assert_array_equal(first_K1, FITTED.rule.choose(FITTED.estimator.estimate(TEST.prompts)))


@pytest.mark.parametrize("aggregator", [None, *tiny.MODELS])
def test_every_prompt_is_answered_and_no_model_is_loaded_twice(aggregator):
    plan = Panel(FITTED, recruits=2, aggregators=aggregator).plan(TEST.prompts)
    names = [turn.model for turn in plan.turns]
    assert len(names) == len(set(names)) <= 3
    asked = sorted((n, plan.models.index(turn.model)) for turn in plan.turns for n in turn.prompts)
    assert asked == sorted((n, m) for n, row in enumerate(plan.chosen_NK.tolist()) for m in row)
    joins = [n for turn in plan.turns for n in turn.joins]
    assert joins == ([] if aggregator is None else list(range(len(TEST))))
    assert aggregator is None or names[-1] == aggregator


def test_an_aggregator_per_data_set_reads_only_after_all_have_answered():
    aggregators = {"cat": "dog-person", "dog": "dog-person", "bird": "dear-all-rounder"}
    panel = Panel(FITTED, recruits=2, aggregators=aggregators)
    heard = []

    def aggregate(model, prompts, answers):
        assert all(None not in each for each in answers)
        heard.extend((model, prompt) for prompt in prompts)
        return echo_first(model, prompts, answers)

    said = panel.answer(TEST.prompts, says, aggregate, TEST.datasets)
    assert sorted(heard) == sorted(
        (aggregators[name], prompt) for name, prompt in zip(TEST.datasets, TEST.prompts, strict=True)
    )
    chosen_NK = panel.plan(TEST.prompts, TEST.datasets).chosen_NK
    for n, prompt in enumerate(TEST.prompts):
        first = TEST.models[chosen_NK[n, 0]]
        assert said[n] == f"{aggregators[TEST.datasets[n]]} joins 2: {first} on {prompt}"
    turns = panel.plan(TEST.prompts, TEST.datasets).turns
    assert len(turns) <= 3 + 1  # one aggregator more, one load more


def test_models_are_asked_in_batch():
    calls = []

    def ask(model, prompts):
        calls.append((model, len(prompts)))
        return says(model, prompts)

    Panel(FITTED, recruits=2).answer(TEST.prompts, ask)
    assert len(calls) == len({model for model, _ in calls})
    assert sum(count for _, count in calls) == 2 * len(TEST)


def test_played_on_records_as_asked_live():
    panel = Panel(FITTED, recruits=3)
    recorded = dict(zip(TEST.prompts, TEST.answer_NM, strict=True))
    live = panel.answer(TEST.prompts, lambda model, prompts: [recorded[each][TEST.column(model)] for each in prompts])
    played = panel.play(TEST)
    assert played.answers == live
    assert played.cost_N == pytest.approx(TEST.cost_NM.sum(1))
    assert played.loads == 3
    for n, answer in enumerate(live):
        given = [m for m in range(3) if TEST.answer_NM[n, m] == answer]
        assert played.score_N[n] == TEST.score_NM[n, given[0]]
    backwards = TEST.only(tuple(reversed(TEST.models)))  # models go by name, not by column
    np.testing.assert_array_equal(panel.play(backwards).score_N, played.score_N)
    alone = Panel(FITTED, recruits=1).play(TEST)
    assert played.score_N.mean() >= alone.score_N.mean()


def test_ability_is_measured_on_one_right_answer_among_wrong_ones():
    given = trials(TRAIN, wrong=1, seed=3)
    for trial in given:
        n = TRAIN.prompts.index(trial.prompt)
        scores = [TRAIN.score_NM[n, TRAIN.answer_NM[n].tolist().index(answer)] for answer in trial.answers]
        assert sorted(scores) == [0.0, 1.0]
        assert scores[trial.answers.index(trial.right)] == 1.0

    def aggregate(model, prompts, answers):  # right answers are digits; one knows, one takes the first, one is lost
        pick = {
            "cat-person": lambda each: next(a for a in each if a.strip("'").isdigit()),
            "dog-person": lambda each: each[0],
            "dear-all-rounder": lambda each: None,
        }[model]
        return [pick(each) for each in answers]

    found = ability(given, TRAIN.models, aggregate)
    for name, shares in found.items():
        first = [trial.answers[0] == trial.right for trial in given if trial.dataset == name]
        assert shares["cat-person"] == 1.0
        assert shares["dog-person"] == pytest.approx(np.mean(first))
        assert shares["dear-all-rounder"] == 0.0
    assert 0.3 < np.mean([trial.answers[0] == trial.right for trial in given]) < 0.7
    assert best_aggregators(found) == dict.fromkeys(found, "cat-person")


def test_refusals():
    with pytest.raises(RosterError, match="between 1 and 3, not 4"):
        Panel(FITTED, recruits=4)
    with pytest.raises(RosterError, match="did you mean 'cat-person'"):
        Panel(FITTED, aggregators="cat-persn")
    with pytest.raises(RosterError, match="say how it is asked"):
        Panel(FITTED, aggregators="cat-person").answer(TEST.prompts, says)
    with pytest.raises(RosterError, match="gave 1 answers"):
        Panel(FITTED).answer(TEST.prompts, lambda model, prompts: ["x"])
    with pytest.raises(RosterError, match="must be told the data set"):
        Panel(FITTED, aggregators={"cat": "cat-person"}).plan(TEST.prompts)
    with pytest.raises(RosterError, match="no aggregator for data set"):
        Panel(FITTED, aggregators={"cat": "cat-person"}).plan(TEST.prompts, TEST.datasets)
    with pytest.raises(RosterError, match="no answers to vote on"):
        Panel(FITTED).play(tiny.records())
    with pytest.raises(RosterError, match="only a vote can be played"):
        Panel(FITTED, aggregators="cat-person").play(TEST)
    with pytest.raises(RosterError, match="no answers to put"):
        trials(tiny.records())
    with pytest.raises(RosterError, match="9 wrong ones"):
        trials(TRAIN, wrong=9)
    with pytest.raises(RosterError, match="gave 0 answers"):
        ability(trials(TRAIN, wrong=1), TRAIN.models, lambda model, prompts, answers: [])
