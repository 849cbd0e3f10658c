"""What contenders of a calm ground have in common, and how a pilot is told."""

import json

import torch
from torch import nn

from evidence import pilot
from evidence.grounds.language import SHORT, RunningMean, start_alike
from evidence.protocol.check import APART, Draw
from roster import moe
from roster.arena.moe.pretrain import Terms, rate_at, small_model

SMALL = Terms(width=16, layers=2, heads=2, hidden=16, length=16)


def test_contenders_begin_with_the_same_experts_and_routers_of_their_own():
    made = []
    for recipe in ("gshard-top2", "rmoe"):
        torch.manual_seed(3)
        model = moe.replace(small_model(SMALL, 0, 64), recipe)
        start_alike(model, 0)
        made.append(dict(model.named_parameters()))
    shared = made[0].keys() & made[1].keys()
    assert any(".experts." in name for name in shared)
    for name in shared:
        assert torch.equal(made[0][name], made[1][name]) or ".router." in name, name
    torch.manual_seed(4)
    other = moe.replace(small_model(SMALL, 0, 64), "gshard-top2")
    start_alike(other, 1)
    expert = next(name for name in shared if ".experts." in name)
    assert not torch.equal(dict(other.named_parameters())[expert], made[0][expert])


def test_a_running_mean_is_the_mean_of_what_the_weights_were():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data.fill_(1.0)
    mean = RunningMean(layer, 0.5)
    for value in (2.0, 4.0):
        layer.weight.data.fill_(value)
        mean.update()
    mean.put_back()
    torch.testing.assert_close(layer.weight.data, torch.full((1, 2), 0.5 * (0.5 * 1 + 0.5 * 2) + 0.5 * 4))
    last = RunningMean(layer, 0.0)
    layer.weight.data.fill_(7.0)
    last.update()
    last.put_back()
    assert (layer.weight == 7).all()


def test_the_rate_falls_to_what_is_asked():
    assert rate_at(99, 100, 0.0) < 1e-3
    assert abs(rate_at(99, 100) - 0.1) < 1e-3
    assert rate_at(10, 100, 0.0) == rate_at(10, 100) == 1.0


def test_a_pilot_goes_on_and_tells_the_spread_of_its_pairs(tmp_path):
    calls = []

    def noisy(draw: Draw) -> float:
        calls.append(draw)
        return 4.0 + (0.1 * (draw.ground - 900) if draw.luck >= APART else 0.0)

    file = tmp_path / "pilot.jsonl"
    pilot.run(file, {"a way": noisy}, range(900, 902))
    file.write_text(file.read_text() + json.dumps({"cut": "off"}))
    pilot.run(tmp_path / "pilot.jsonl", {"a way": noisy}, range(900, 902))
    assert len(calls) == 4
    assert SHORT.steps == 300
    assert pilot.table(pilot.read(file))[2].split(" | ")[1:4] == ["2", "4.025", "0.071"]


def test_a_pilot_of_one_way_is_asked_for_by_its_words(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(pilot, "FILE", tmp_path / "pilot.jsonl")
    monkeypatch.setattr(pilot, "WAYS", {"as before": lambda draw: 1.0, "mean of the weights": lambda draw: 2.0})
    monkeypatch.setattr(pilot, "run", lambda path, ways: asked.append(list(ways)))
    pilot.main(["--only", "mean of"])
    pilot.main(["--table"])
    assert asked == [["mean of the weights"]]
