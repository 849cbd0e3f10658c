"""Prompts of reasoning-gym as a ground: the package's own questions, splits that do not meet, errors."""

import json
import shutil

import pytest

from cli.conftest import refuse, succeed
from roster import pocket
from roster.arena.grounds import reasoning_ground
from roster.arena.reasoning import reasoning_rows
from roster.errors import RosterError

TASKS = ("chain_sum", "gcd")


def test_without_the_package_it_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(RosterError, match=r"pip install 'roster-moe\[reasoning\]'"):
        reasoning_rows(TASKS, "test", 1)


@pytest.fixture
def gym():
    return pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")


def test_questions_and_answers_are_the_packages_own(gym):
    for row in reasoning_rows(TASKS, "test", 4):
        scorer = gym.get_score_answer_fn(row.task)
        assert scorer(row.answer, {"question": row.prompt, "answer": row.answer, "metadata": {}}) == 1.0


def test_splits_do_not_meet_and_draws_differ(gym):
    asked = {(split, seed): reasoning_rows(TASKS, split, 20, seed) for split in ("train", "test") for seed in (0, 1)}
    prompts = {key: {row.prompt for row in rows} for key, rows in asked.items()}
    assert all(len(each) == 40 for each in prompts.values())
    for seed in (0, 1):
        assert not prompts["train", seed] & (prompts["test", 0] | prompts["test", 1])
    assert prompts["test", 0] != prompts["test", 1]
    assert asked["test", 0] == reasoning_rows(TASKS, "test", 20, 0)


def test_a_ground_for_adapters_whose_cards_name_its_tasks(gym, tmp_path):
    for name, task in zip(("reverse", "sort"), TASKS, strict=True):
        shutil.copytree(pocket.experts_path() / name, tmp_path / name)
        card = json.loads((tmp_path / name / "card.json").read_text())
        (tmp_path / name / "card.json").write_text(json.dumps(card | {"task": task}))
    ground = reasoning_ground(tmp_path, [0, 1], 0.2, "pocket")
    assert {row.task for row in ground.rows[1]} == {row.task for row in ground.lessons} == set(TASKS)
    assert not {row.prompt for row in ground.rows[0]} & {row.prompt for row in ground.lessons}


def test_rows_are_written_for_training(gym):
    lines = succeed("arena", "reasoning", *TASKS, "--count", 3).splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["chain_sum"] * 3 + ["gcd"] * 3
    assert "did you mean 'chain_sum'" in refuse("arena", "reasoning", "chain_sums")
