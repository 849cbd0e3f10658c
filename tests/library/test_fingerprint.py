"""A fingerprint tells bases apart, and nothing else: not precisions, ties or what is quantised."""

import pytest
import torch
import transformers
from torch import nn

import tiny
from roster import RosterError
from roster.library import check_same_base, digest, fingerprint
from roster.library.fingerprint import is_whole

NAME = "model.layers.1.mlp.up_proj.weight"


def quantise(model, name):
    """Packs a weight as a quantised layer would: integers of another shape."""
    owner, _, leaf = name.rpartition(".")
    packed = torch.zeros(7, dtype=torch.uint8)
    setattr(model.get_submodule(owner), leaf, nn.Parameter(packed, requires_grad=False))


def test_precision_does_not_matter(tmp_path):
    """Of one checkpoint, loaded twice; also of one stored in bfloat16."""
    base = tiny.base()
    base.save_pretrained(tmp_path)
    load = transformers.AutoModelForCausalLM.from_pretrained
    exact, half = (load(tmp_path, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert fingerprint(exact) == fingerprint(half) == fingerprint(base)
    assert digest(fingerprint(exact)) == digest(fingerprint(half))


def test_every_parameter_is_in_it():
    base = tiny.base()
    table = fingerprint(base)
    assert table.keys() == dict(base.named_parameters(remove_duplicate=False)).keys()
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in table.values())


def test_a_changed_weight_differs():
    base, other = tiny.base(), tiny.base()
    other.get_parameter(NAME).data[0, 0] += 1
    changed = {name for name, value in fingerprint(base).items() if fingerprint(other)[name] != value}
    assert changed == {NAME}
    assert digest(fingerprint(base)) != digest(fingerprint(other))
    with pytest.raises(RosterError, match=f"the mixture was made for another base: tensor '{NAME}' hashes to"):
        check_same_base(fingerprint(base), other, what="the mixture")


def test_shapes_and_names_count():
    flat, tall = nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False)
    tall.weight.data = flat.weight.data.reshape(4, 3).clone()
    assert fingerprint(flat) != fingerprint(tall)
    assert fingerprint(nn.Sequential(flat))["0.weight"] != fingerprint(flat)["weight"]


def test_large_tensors_are_sampled_to_their_end():
    layer = nn.Linear(512, 300, bias=False)
    before = fingerprint(layer)
    layer.weight.data[:, :256] *= 1.5
    assert fingerprint(layer) != before
    layer.weight.data[:, :256] /= 1.5
    layer.weight.data[-8:] *= 2
    assert fingerprint(layer) != before


def test_tied_weights():
    config = transformers.LlamaConfig(**{**tiny._SMALL, **tiny._HEADS, **tiny._IDS}, tie_word_embeddings=True)
    tied = transformers.AutoModelForCausalLM.from_config(config)
    table = fingerprint(tied)
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= table.keys()
    check_same_base(table, tied, what="it")
    tied.model.embed_tokens.weight.data[1] += 1
    with pytest.raises(RosterError, match="embed_tokens"):
        check_same_base(table, tied, what="it")


def test_quantised_and_meta_tensors_are_passed_over():
    recorded = fingerprint(tiny.base())
    model = tiny.base()
    assert is_whole(model)
    quantise(model, NAME)
    assert not is_whole(model)
    assert fingerprint(model) == {name: value for name, value in recorded.items() if name != NAME}
    check_same_base(recorded, model, what="it")
    model.get_parameter("model.norm.weight").data += 1
    with pytest.raises(RosterError, match=r"model\.norm\.weight"):
        check_same_base(recorded, model, what="it")
    assert fingerprint(tiny.base().to("meta")) == {}


def test_something_must_be_compared():
    for model, why in ((nn.Linear(2, 2), "they have other names"), (tiny.base().to("meta"), "not in memory")):
        with pytest.raises(RosterError, match=f"no tensor of this model can be compared, .*{why}"):
            check_same_base(fingerprint(tiny.base()), model, what="it")


def test_a_smaller_model_is_another():
    smaller = tiny.base()
    smaller.model.layers = smaller.model.layers[:1]
    with pytest.raises(RosterError, match=r"has no tensor 'model\.layers\.1"):
        check_same_base(fingerprint(tiny.base()), smaller, what="it")


def test_float16_gets_a_hint():
    base = tiny.base()
    base.get_parameter(NAME).data.fill_(1e-9)
    with pytest.raises(RosterError, match="load the base in bfloat16 or float32"):
        check_same_base(fingerprint(base), tiny.base().half(), what="it")


@pytest.mark.parametrize("skip", [[NAME], {NAME}, lambda name: name == NAME])
def test_skip(skip):
    base = tiny.base()
    assert fingerprint(base).keys() - fingerprint(base, skip=skip).keys() == {NAME}


def test_it_is_said_why_nothing_can_be_compared():
    recorded = fingerprint(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(RosterError, match="no tensor of this model can be compared, they have other names"):
        check_same_base(recorded, tiny.base(), what="it")
    with pytest.raises(RosterError, match="can be compared, all are quantised or not in memory"):
        check_same_base(recorded, nn.Sequential(nn.Linear(2, 2)).to("meta"), what="it")
