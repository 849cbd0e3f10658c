"""A probe decides as `auto` does, from a folder that holds none of the base but its first blocks."""

import json

import pytest
import torch

import tiny
from deploy.conftest import NAMES, asked, mixture
from roster import RosterError
from roster.auto.explain import explain
from roster.auto.features import features_of
from roster.auto.probe import Probe
from roster.auto.readers import MOST, cut, shortened
from roster.deploy.probing import make_probe
from roster.folders import load_folder
from roster.prompts import Rendering
from roster.tensors import StoredTensors, write_tensors


@pytest.fixture(scope="module", params=["first", "auto", "tfidf"])
def probe(request, saved, tmp_path_factory):
    """(what is read, the probe as it was made, the same from its folder)"""
    folder = tmp_path_factory.mktemp("probe") / "probe"
    made = make_probe(load_folder(saved).eval(), request.param)
    made.save(folder)
    return request.param, made, folder


def test_it_sends_prompts_to_their_adapters_and_what_is_nobodys_to_the_base(probe):
    _, made, _ = probe
    found = [made.decide(prompt).expert for _, prompt in asked()]
    assert sum(one == name for one, (name, _) in zip(found, asked(), strict=True)) >= len(found) - 2


def test_several_texts_in_one_pass_are_decided_as_each_alone(probe):
    _, made, _ = probe
    texts = [prompt for _, prompt in asked()]
    together = made.decide_all(texts)
    assert [each.expert for each in together] == [made.decide(text).expert for text in texts]
    assert made.decide_all(texts) == together, "what was read ahead is as it was"


def test_reading_what_auto_reads_it_decides_as_auto(probe, saved):
    reads, made, _ = probe
    if reads != "auto":
        pytest.skip("other readers may differ")
    model = load_folder(saved).eval()
    for _, prompt in asked():
        explained = explain(model, prompt)
        choice = made.decide(prompt)
        assert choice.expert == next(iter(explained.weights), None)
        assert f"{abs(explained.lead):.2f}" in choice.why


def test_saved_and_loaded_it_decides_the_same(probe):
    reads, made, folder = probe
    loaded = Probe.load(folder)
    assert loaded.experts == NAMES
    assert [loaded.decide(prompt) for _, prompt in asked()] == [made.decide(prompt) for _, prompt in asked()]
    if reads == "first":
        blocks = len(loaded.reader.model.layers)
        assert blocks == loaded.reader.place[0] < 4
        stored = StoredTensors(folder / "blocks")
        assert {key.split(".")[1] for key in stored if key.startswith("layers.")} == {str(at) for at in range(blocks)}


def test_a_damaged_folder_is_one_error(probe):
    _, _, folder = probe
    stored = dict(StoredTensors(folder, "router"))
    manifest = (folder / "roster.json").read_text()
    try:
        write_tensors(stored | {"expert_C": stored["expert_C"] + 9}, folder, "router")
        with pytest.raises(RosterError, match="do not fit together"):
            Probe.load(folder)
        write_tensors({name: each for name, each in stored.items() if name != "limits_4"}, folder, "router")
        with pytest.raises(RosterError, match="limits_4"):
            Probe.load(folder)
        write_tensors(stored, folder, "router")
        (folder / "roster.json").write_text(json.dumps(json.loads(manifest) | {"kind": "mixture"}))
        with pytest.raises(RosterError, match="kind"):
            Probe.load(folder)
    finally:
        write_tensors(stored, folder, "router")
        (folder / "roster.json").write_text(manifest)


def test_blocks_that_are_gone_are_one_error(saved, tmp_path):
    make_probe(load_folder(saved).eval(), "first").save(tmp_path / "probe")
    (tmp_path / "probe" / "blocks" / "model.safetensors").unlink()
    with pytest.raises(RosterError, match="blocks"):
        Probe.load(tmp_path / "probe")


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_first_blocks_see_what_the_whole_base_sees(architecture, tmp_path):
    """Also from a folder, where transformers makes the model anew from the config."""
    from transformers import AutoModel

    texts, rendering = ["12 34 5", "6 77 1 2 3"], Rendering(tiny.Tokenizer())
    header_H, place = torch.tensor([-1]), (1, "mean")
    whole = features_of(tiny.base(architecture), rendering, header_H, texts, [place])
    cut(tiny.base(architecture), 1).save_pretrained(tmp_path)
    few = AutoModel.from_pretrained(tmp_path).eval()
    assert few.config.num_hidden_layers == 1
    assert torch.equal(features_of(few, rendering, header_H, texts, [place]), whole)


def test_a_base_with_fewer_blocks_is_refused():
    with pytest.raises(RosterError, match="2 blocks, not 3"):
        cut(tiny.base(), 3)


def test_of_a_long_prompt_both_ends_are_read():
    long = "begin" + "x" * 5000 + "end"
    assert len(shortened(long)) == MOST + 1
    assert shortened(long).startswith("begin")
    assert shortened(long).endswith("end")
    assert shortened("short") == "short"


def test_another_recipe_is_refused():
    model = mixture()
    model.roster.head = None
    model.roster.recipe = "arrow-mbc"
    with pytest.raises(RosterError, match="'arrow-mbc': build one with `roster build"):
        make_probe(model)
