"""WEMoE: at its start it is task arithmetic; its gates alone learn; rows are answered by their own weights."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import roster
from cli.conftest import refuse, succeed
from roster.context import Context
from roster.errors import RosterError
from roster.merge import merge_models
from roster.merge.gates import factored
from roster.score import MeanGate

IDS = torch.tensor([[9, 30, 17, 44, 101, 80], [55, 12, 200, 7, 60, 33]])


def ensemble(family, name="made", data=("d0.jsonl", "d1.jsonl"), **settings):
    files = [family / each for each in data]
    out = merge_models(
        "wemoe-merging", [family / "m0", family / "m1"], family / name, base=family / "b", data=files, overwrite=True,
        **settings,
    )  # fmt: skip
    told = json.loads((out / "gates.json").read_text())["entropy"]
    return told["before"], told["after"]


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def test_at_its_start_it_is_task_arithmetic(family, monkeypatch):
    monkeypatch.chdir(family)
    ensemble(family, steps=0, batch=4)
    succeed("merge", "--method", "task_arithmetic", "--base", "b", "--model", "m0", "--model", "m1", "--out", "plain",
            "--option", "weight=0.3")  # fmt: skip
    made, plain = roster.load(family / "made"), AutoModelForCausalLM.from_pretrained(family / "plain").eval()
    # Gates begin with small weights besides their bias of 0.3; without them the two are one.
    for name, each in made.named_parameters():
        if each.requires_grad and not name.endswith("bias_E"):
            each.data.zero_()
    torch.testing.assert_close(logits(made), logits(plain), rtol=0, atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(family / "b").eval()
    assert (logits(made) - logits(base)).abs().max() > 0.1


def test_the_function_is_that_of_merged_weights(family):
    """Against each row's blocks merged by hand with the row's own coefficients."""
    ensemble(family, steps=3, batch=4, rate=0.05)
    made = roster.load(family / "made")
    base, *models = (load_file(family / each / "model.safetensors") for each in ("b", "m0", "m1"))
    found = logits(made)
    for row in range(2):
        with roster.trace(made) as routes:
            torch.testing.assert_close(logits(made, IDS[row : row + 1]), found[row : row + 1], rtol=0, atol=1e-5)
        model = AutoModelForCausalLM.from_pretrained(family / "b").eval()
        coefficients = {}
        for site in routes.sites:
            coefficients[int(site.split("layers.")[1].split(".")[0])] = routes.gates(site)[0]
        with torch.no_grad():
            for name, each in model.named_parameters():
                taus = [other[name] - base[name] for other in models]
                a = coefficients[int(name.split(".")[2])] if ".mlp." in name else torch.tensor([0.3, 0.3])
                each.copy_(base[name] + a[0] * taus[0] + a[1] * taus[1])
        torch.testing.assert_close(logits(model, IDS[row : row + 1]), found[row : row + 1], rtol=0, atol=2e-4)
    assert len(coefficients) == 2


def test_entropy_falls_and_gates_alone_learn(family):
    before, after = ensemble(family, steps=25, batch=8, rate=0.02)
    assert after < before - 0.02
    ensemble(family, "untuned", steps=0, batch=8)
    made, untuned = (dict(roster.load(family / each).named_parameters()) for each in ("made", "untuned"))
    changed = {name for name, each in made.items() if not torch.equal(each, untuned[name])}
    assert changed == {name for name, each in made.items() if each.requires_grad}
    assert len(changed) == 8


def test_the_score_is_the_mean_of_gates_and_not_the_gate_of_the_mean():
    gate = MeanGate(6, 3, "k", hidden=5, std=1.0)
    x = torch.randn(4, 6)
    each = torch.relu(x @ gate.in_HD.T) @ gate.out_EH.T
    found = gate(x, Context(1, 4))
    torch.testing.assert_close(found, each.mean(0, keepdim=True).expand(4, -1))
    apart = torch.relu(x.mean(0) @ gate.in_HD.T) @ gate.out_EH.T
    assert (found[0] - apart).abs().max() > 0.05


def test_a_rank_cuts_the_difference_where_eckart_and_young_say():
    tau = torch.randn(20, 30)
    for matrix in (tau, tau.T.contiguous()):
        whole = factored(matrix, 0)
        torch.testing.assert_close(whole.B_OR @ whole.A_RD, matrix)
        cut = factored(matrix, 4)
        floor = torch.linalg.svdvals(matrix)[4:].norm()
        assert cut.A_RD.shape[0] == 4
        torch.testing.assert_close((cut.B_OR @ cut.A_RD - matrix).norm(), floor, rtol=1e-4, atol=0)


def test_from_the_command_line(family, monkeypatch):
    monkeypatch.chdir(family)
    command = ["merge", "--method", "wemoe-merging", "--model", "m0", "--model", "m1", "--data", "d0.jsonl"]
    command += ["--out", "mixture", "--option", "batch=4", "--option", "rank=8"]
    assert "needs a base" in refuse(*command)
    command += ["--base", "b"]
    assert "no parameter 'stpes'" in refuse(*command, "--option", "stpes=2")
    assert "batch=99" in refuse(*command[:-6], *command[-2:], "--option", "batch=99")
    assert "makes a mixture" in refuse(*command, "--eval", "d1.jsonl")
    assert "wrote mixture: entropy" in succeed(*command, "--option", "steps=2")
    assert "is there already" in refuse(*command)
    assert not list(family.glob(".mixture*"))
    with pytest.raises(RosterError, match="learns from data"):
        ensemble(family, "other", data=())
