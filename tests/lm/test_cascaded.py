"""The cascaded controller: seats of the mode, probabilities that sum to one, learning from outcomes alone."""

import itertools

import numpy as np
import pytest
import torch

from roster.errors import RosterError
from roster.lm.online.cascaded import Cascaded, Configuration
from roster.lm.online.cascaded_folder import load_controller, save_controller
from roster.recipes import find

MODES, ROLES, MODELS = {"alone": 1, "pair": 2}, ("solver", "critic"), ("small", "large")
PROMPTS = [f"{kind} question number {n}" for n in range(20) for kind in ("cat", "dog")]


def play(n: int, made: Configuration) -> tuple[float, float]:
    """Cats need a pair that ends with a critic, dogs one large solver; models cost what they are."""
    cost = sum({"small": 0.1, "large": 0.3}[model] for model in made.models)
    if n % 2 == 0:
        return float(made.mode == "pair" and made.roles[-1] == "critic"), cost
    return float(made.mode == "alone" and made.roles == ("solver",) and made.models == ("large",)), cost


def test_it_learns_what_each_kind_of_prompt_needs():
    controller = Cascaded(MODES, ROLES, MODELS, seed=1).fit(PROMPTS, play, price=0.5, epochs=40)
    cat, dog = controller.choose(["cat question number 99", "dog question number 99"])
    assert dog == Configuration("alone", ("solver",), ("large",))
    assert cat.mode == "pair"
    assert cat.roles[-1] == "critic"
    assert cat.models == ("small", "small")


def test_probabilities_of_all_configurations_sum_to_one():
    controller = Cascaded(MODES, ROLES, MODELS).fit(PROMPTS[:4], play, epochs=1)
    x_BD = controller._vectors(controller.encoder, ["cat question"] * 4000)
    torch.manual_seed(0)
    with torch.no_grad():
        made, log_B, _ = controller._decide(x_BD, greedy=False)
    chance = {each: float(log.exp()) for each, log in zip(made, log_B, strict=True)}
    everything = sum(len(ROLES) ** seats * len(MODELS) ** seats for seats in MODES.values())
    assert len(chance) == everything
    assert sum(chance.values()) == pytest.approx(1.0, abs=1e-4)
    share = {each: made.count(each) / len(made) for each in chance}
    for each, expected in chance.items():
        assert share[each] == pytest.approx(expected, abs=4 * (expected / len(made)) ** 0.5)


def test_training_is_repeatable_and_leaves_the_dice_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    made = [Cascaded(MODES, ROLES, MODELS, seed=3).fit(PROMPTS, play, epochs=2).choose(PROMPTS) for _ in range(2)]
    assert made[0] == made[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_each_prompt_is_played_as_often_as_said():
    asked = []
    Cascaded(MODES, ROLES, MODELS).fit(
        PROMPTS[:10], lambda n, made: (asked.append(n), play(n, made))[1], epochs=3, draws=2, rows=4
    )
    assert np.bincount(asked).tolist() == [6] * 10


def test_what_cannot_be_built():
    for modes, roles in ((MODES, ()), ({"alone": 0}, ROLES), ({}, ROLES)):
        with pytest.raises(RosterError, match="at least one seat"):
            Cascaded(modes, roles, MODELS)
    with pytest.raises(RosterError, match="two draws"):
        Cascaded(MODES, ROLES, MODELS).fit(PROMPTS, play, draws=1)
    with pytest.raises(RosterError, match="call `fit` first"):
        Cascaded(MODES, ROLES, MODELS).choose(PROMPTS[:1])


def test_the_recipe_makes_a_controller():
    controller = find("masrouter").compose(width=8)(MODES, ROLES, MODELS)
    assert controller.width == 8
    assert len(list(itertools.chain(controller.modes, controller.roles, controller.models))) == 6


def test_a_saved_controller_decides_the_same(tmp_path):
    controller = Cascaded(MODES, ROLES, MODELS, seed=3).fit(PROMPTS, play, epochs=2)
    again = load_controller(save_controller(controller, tmp_path / "controller"))
    assert again.choose(PROMPTS) == controller.choose(PROMPTS)
    for name, value in controller.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    again.fit(PROMPTS, play, epochs=1)  # and it can go on learning
    with pytest.raises(RosterError, match="call `fit` first"):
        save_controller(Cascaded(MODES, ROLES, MODELS), tmp_path / "untrained")
    (tmp_path / "controller" / "arrays.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RosterError, match="is damaged"):
        load_controller(tmp_path / "controller")
