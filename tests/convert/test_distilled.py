"""LaDiMo: blocks distilled into smaller experts, against transformers' own block and against what was planted."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from convert.test_carved import dense, last_hidden, texts
from convert.test_convert import IDS, carried_out
from roster.convert import prove
from roster.convert.dense import open_dense
from roster.convert.fitting import at_blocks
from roster.convert.ladimo import Training, answer, distil, enough_experts, plan_ladimo
from roster.errors import RosterError


def blocks(folder):
    found = []
    at_blocks(open_dense(folder), texts(40), lambda layer, block, x_TD: found.append((layer, x_TD)))
    model = AutoModelForCausalLM.from_pretrained(folder)
    return [(model.model.layers[layer].mlp, x_TD) for layer, x_TD in found]


def test_whole_slices_begin_as_the_block(tmp_path):
    """One slice, whoever is chosen: the block itself; the error is 0 before any training."""
    block, x_TD = blocks(dense(tmp_path / "dense"))[0]
    _, first, _ = distil(block, x_TD, Training(4, 1, 2, 1, 1e-6, 64, 0))
    assert first < 1e-8


def test_the_error_falls_by_half(tmp_path):
    for block, x_TD in blocks(dense(tmp_path / "dense")):
        _, first, last = distil(block, x_TD, Training(4, 2, 2, 300, 3e-3, 256, 0))
        assert last < first / 2, (first, last)


def test_what_is_written_answers_as_what_was_trained(tmp_path):
    before = dense(tmp_path / "dense")
    plan = plan_ladimo(open_dense(before), texts(), tmp_path / "scratch", steps=20, enough=1.0)
    made = carried_out(plan, tmp_path / "made")
    model, report = AutoModelForCausalLM.from_pretrained(made, output_loading_info=True)
    assert not report["missing_keys"], report
    assert model.config.intermediate_size == 24
    block, x_TD = blocks(before)[0]
    own, _, _ = distil(block, x_TD, Training(4, 2, 2, 1, 1e-3, 64, 0))
    experts, gate = model.model.layers[0].mlp.experts, model.model.layers[0].mlp.gate
    own = {"rows": gate.weight, "down": experts.down_proj}
    own["gate"], own["up"] = experts.gate_up_proj.chunk(2, dim=1)
    with torch.no_grad():
        theirs = model.model.layers[0].mlp(x_TD[None])[0]
        torch.testing.assert_close(answer(block, own, x_TD, 2), theirs, atol=1e-5, rtol=1e-4)
    assert not prove(before, made, IDS).exact
    assert last_hidden(made, IDS).isfinite().all()


def test_trained_layers_of_a_killed_run_are_taken_up(tmp_path, monkeypatch):
    before = open_dense(dense(tmp_path / "dense"))
    first = plan_ladimo(before, texts(), tmp_path / "scratch", steps=3)
    trained = []
    monkeypatch.setattr("roster.convert.ladimo.distil", lambda *given: trained.append(given))
    again = plan_ladimo(before, texts(), tmp_path / "scratch", steps=3)
    assert not trained
    assert again.fingerprint() == first.fingerprint()
    with pytest.raises(TypeError):  # another run trains anew, which this test has put out of order
        plan_ladimo(before, texts(), tmp_path / "scratch", steps=4)


def test_enough_is_the_mean_share_of_the_largest_weights():
    logits = torch.tensor([[0.6, 0.3, 0.08, 0.02], [0.1, 0.1, 0.7, 0.1]]).log()
    assert enough_experts(logits, 0.6) == 1
    assert enough_experts(logits, 0.85) == 2
    assert enough_experts(logits, 0.9) == 3
    assert enough_experts(logits, 1.0) == 4


def test_what_cannot_be_distilled_is_refused(tmp_path):
    before = open_dense(dense(tmp_path / "dense"))
    for options, message in (
        ({"slices": 5}, "does not divide into 5"),
        ({"top_k": 5}, "5 of 4 experts"),
        ({"enough": 5.0}, "enough is above 0"),
    ):
        with pytest.raises(RosterError, match=message):
            plan_ladimo(before, texts(), tmp_path / "scratch", **options)
    assert not (tmp_path / "scratch").exists()
