"""Experts are found by examples: on the pocket models, whose tasks are known, and against PEFT's own losses."""

import peft
import pytest
import torch

from roster import RosterError, pocket
from roster.library import read_adapter
from roster.library.wearing import wearing
from roster.pocket.skills import examples
from roster.prompts import Rendering
from roster.routed.base import load_base, load_tokenizer
from roster.shelf.index import INDEX
from roster.suiting.asking import by_loss, by_shots
from roster.suiting.states import States, by_states, directions, expert_vectors
from roster.train import Row

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SKILLS = ("reverse", "sort", "upper", "twice")


@pytest.fixture(scope="module")
def ground():
    model, _ = load_base("pocket")
    return model, Rendering(load_tokenizer("pocket"))


@pytest.fixture(scope="module")
def paths():
    return {name: pocket.experts_path() / name for name in SKILLS}


def rows(skill, count=6):
    return [Row(prompt=each.prompt, answer=each.answer) for each in examples(skill, "test", count, 0)]


@pytest.mark.parametrize("skill", ["reverse", "upper"])
def test_the_right_expert_has_the_least_loss(skill, ground, paths):
    found = by_loss(*ground, {**paths, "base": None}, rows(skill))
    assert found[0].name == skill
    assert {each.name for each in found} == {*SKILLS, "base"}
    assert found[0].right is None


def test_the_loss_is_pefts(ground, paths):
    model, rendering = ground
    row = rows("sort", 1)
    (found,) = by_loss(model, rendering, {"sort": paths["sort"]}, row)
    asked, told = rendering.pair(row[0].asked, row[0].answer)
    theirs = peft.PeftModel.from_pretrained(load_base("pocket")[0], str(paths["sort"])).eval()
    labels = torch.tensor([[-100] * len(asked) + told])
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([asked + told]), labels=labels).loss
    assert found.loss == pytest.approx(float(expected), abs=1e-4)


def test_shots_count_answers_that_are_right(ground, paths):
    found = by_shots(*ground, {**paths, "base": None}, rows("reverse"))
    assert found[0].name == "reverse"
    assert found[0].right > 0.5
    assert found[0].right > next(each.right for each in found if each.name == "upper")


def test_a_base_takes_its_adapter_off_again(ground, paths):
    model, rendering = ground
    ids = torch.tensor([rendering.ids("reverse: abc =")])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with wearing(model, read_adapter(paths["reverse"])):
            assert not torch.equal(model(input_ids=ids).logits, before)
        assert torch.equal(model(input_ids=ids).logits, before)


def test_states_find_the_skill_and_are_remembered(ground, tmp_path):
    import shutil

    for name in SKILLS:
        shutil.copytree(pocket.experts_path() / name, tmp_path / name)
    states, read = States(*ground), []
    asked = [each.prompt for each in examples("twice", "test", 5, 0)]
    found = by_states(tmp_path, states, asked, read.append)
    assert found[0][0] == "twice"
    assert found[0][1] > 0 > found[-1][1]
    assert read == [1] * 4
    assert (tmp_path / INDEX).is_file()

    class Counting(States):
        read = 0

        def __call__(self, prompts, tick=lambda count: None):
            Counting.read += len(prompts)
            return super().__call__(prompts, tick)

    again = by_states(tmp_path, Counting(*ground), asked)
    assert [name for name, _ in again] == [name for name, _ in found]
    assert Counting.read == len(asked)  # the experts' examples were not read anew
    made = directions(expert_vectors(tmp_path, states))
    assert made.shape[0] == 4
    assert abs((made**2).sum(1) - 1).max() < 1e-5


def test_nobody_has_examples(ground, tmp_path):
    import shutil

    shutil.copytree(pocket.experts_path() / "sort", tmp_path / "sort")
    (tmp_path / "sort" / "card.json").unlink()
    with pytest.raises(RosterError, match="roster experts describe"):
        by_states(tmp_path, States(*ground), ["sort: ba ="])
