"""A mixture on disk: it moves between machines, and whatever is wrong with it is said before anything runs."""

import json
import os
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import roster
import roster.routed.base
import tiny
from roster.adapters import writing
from roster.adapters.attach import attach
from roster.library import Library
from roster.recipes import RECIPES

NAMES = ["0", "self_attn", "with space", "ünïcode", "a.b"]


def library(names=NAMES):
    adapters = tiny.library(tiny.base(), len(names))
    return Library({n: replace(adapters[old], name=n) for n, old in zip(names, adapters.names, strict=True)})


def routed(slug="x-lora", names=NAMES, **options):
    model = attach(tiny.base(), library(names), RECIPES[slug](options), recipe=slug, options=options).eval()
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.stack(tiny.tokens(5, 5)), use_cache=False).logits


@pytest.fixture
def saved(tmp_path):
    model = routed(names=["one", "two"])
    model.save_pretrained(tmp_path / "saved", include_base=True)
    return tmp_path / "saved"


@pytest.mark.parametrize("slug", ["arrow-mbc", "x-lora", "smear"])
def test_another_machine(slug, tmp_path, monkeypatch):
    """Saved here under a relative path, moved elsewhere, loaded from another directory; names may be odd."""
    monkeypatch.chdir(tmp_path)
    model = routed(slug)
    model.save_pretrained("here/saved", include_base=True)
    (tmp_path / "far/away").mkdir(parents=True)
    shutil.move(tmp_path / "here/saved", tmp_path / "far/away/moved")
    shutil.rmtree(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "far")
    again = roster.load("away/moved")
    assert again.roster.experts == tuple(NAMES)
    assert torch.equal(logits(again), logits(model))
    again.save_pretrained("away/moved")
    assert torch.equal(logits(roster.load("away/moved")), logits(model))


def test_no_path_of_this_machine_is_written(tmp_path):
    routed().save_pretrained(tmp_path / "saved", include_base=True)
    texts = list((tmp_path / "saved").rglob("*.json"))
    assert len(texts) >= 3 + 2 * len(NAMES)
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert os.getcwd() not in text
        assert not re.search(r'"/[^"]', text), path


def test_without_the_base(tmp_path):
    model = routed()
    model.save_pretrained(tmp_path / "saved", include_base=False)
    assert not (tmp_path / "saved" / "base").exists()
    assert torch.equal(logits(roster.load(tiny.base(), experts=tmp_path / "saved")), logits(model))


def test_another_base_is_refused_by_a_tensor(saved):
    other = tiny.base()
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[0, 0] += 1.0
    with pytest.raises(roster.RosterError, match=r"another base: tensor 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        roster.load(other, experts=saved)
    with pytest.raises(roster.RosterError, match="another base"):
        roster.load(tiny.base("gpt2"), experts=saved)


def break_router(saved, change):
    path = saved / "router.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


KEY = "roster.head.weight_NED"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(KEY), "is missing from"),
        (lambda t: t.update(extra=torch.zeros(1)), "'extra' is not known to this recipe"),
        (lambda t: t.update({KEY: t[KEY][:, :, :-1].contiguous()}), r"\[10, 2, 31\], not \[10, 2, 32\]"),
        (lambda t: t[KEY].fill_(float("nan")), "not finite"),
        (lambda t: t[KEY][0, 0].fill_(float("inf")), "not finite"),
    ],
    ids=["missing", "extra", "shape", "nan", "infinity"],
)
def test_a_damaged_router_is_refused(saved, change, message):
    break_router(saved, change)
    with pytest.raises(roster.RosterError, match=message) as error:
        roster.load(saved)
    assert "router.safetensors" in str(error.value)
    if "extra" not in message:
        assert KEY in str(error.value)


def test_a_router_that_is_no_file_is_refused(saved):
    (saved / "router.safetensors").write_bytes(b"not tensors")
    with pytest.raises(roster.RosterError, match=r"router\.safetensors.*cannot be read"):
        roster.load(saved)
    (saved / "router.safetensors").unlink()
    with pytest.raises(roster.RosterError, match=r"router\.safetensors.*cannot be read"):
        roster.load(saved)


def test_a_changed_expert_is_refused(saved):
    path = saved / "experts" / "two" / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).mul_(2.0)
    save_file(tensors, path)
    with pytest.raises(roster.RosterError, match="stale"):
        roster.load(saved)
    (saved / "experts" / "two" / "card.json").unlink()
    with pytest.raises(roster.RosterError, match=r"expert 'two'.*not the one that the router was made for"):
        roster.load(saved)


def test_a_missing_expert_is_refused(saved):
    shutil.rmtree(saved / "experts" / "two")
    with pytest.raises(roster.RosterError, match=r"experts/two.*not an adapter"):
        roster.load(saved)


def edit(saved, **fields):
    path = saved / "roster.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest.update(fields)
    path.write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, "has format 2; this roster reads format 1"),
        ({"unheard": 1}, "cannot be read"),
        ({"experts": "two"}, "cannot be read"),
        ({"recipe": "x-lorra"}, "unknown router 'x-lorra': did you mean 'x-lora'"),
        ({"options": {"dept": 2}}, "no option 'dept': did you mean 'depth'"),
        ({"options": {"depth": 0}}, "depth must be at least 1"),
        ({"options": {"layerwise": False}}, r"\[10, 2, 32\], not \[1, 2, 32\]"),
    ],
    ids=["format", "field", "type", "recipe", "option", "value", "other option"],
)
def test_a_stale_manifest_is_refused(saved, fields, message):
    edit(saved, **fields)
    with pytest.raises(roster.RosterError, match=message):
        roster.load(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00"])
def test_a_damaged_manifest_is_refused(saved, content):
    (saved / "roster.json").write_bytes(content)
    with pytest.raises(roster.RosterError, match=r"roster\.json.*cannot be read"):
        roster.load(saved)


def test_a_folder_without_manifest_is_refused(saved):
    (saved / "roster.json").unlink()
    with pytest.raises(roster.RosterError, match="not a saved mixture"):
        roster.load(saved)
    with pytest.raises(roster.RosterError, match="not a saved mixture"):
        roster.load(saved / "nowhere")


def test_a_mixture_without_a_base_asks_for_one(saved):
    shutil.rmtree(saved / "base")
    manifest = json.loads((saved / "roster.json").read_text(encoding="utf-8"))
    edit(saved, base={**manifest["base"], "included": False, "name": None})
    with pytest.raises(roster.RosterError, match="does not carry its base"):
        roster.load(saved)
    assert torch.equal(logits(roster.load(tiny.base(), experts=saved)), logits(roster.load(tiny.base(), experts=saved)))


STEPS = ["_write_experts", "router_state", "write_base", "fingerprint", "write_tokenizer"]


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_save_leaves_nothing(step, tmp_path, monkeypatch):
    """No half-written folder, and no scratch beside it."""

    def fail(*_, **__):
        raise KeyboardInterrupt

    model = routed(names=["one", "two"])
    monkeypatch.setattr(writing, step, fail)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path / "new", include_base=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_save_keeps_what_was_there(step, saved, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    model = routed("arrow-mbc", names=["one", "three"])
    with monkeypatch.context() as patch:
        patch.setattr(writing, step, fail)
        with pytest.raises(KeyboardInterrupt):
            model.save_pretrained(saved, include_base=True)
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    model.save_pretrained(saved, include_base=True)
    again = roster.load(saved)
    assert again.roster.recipe == "arrow-mbc"
    assert sorted(path.name for path in (saved / "experts").iterdir()) == ["one", "three"]


def test_other_files_stay(saved):
    """A trainer keeps its state beside the mixture."""
    (saved / "optimizer.pt").write_bytes(b"state")
    model = roster.load(saved)
    model.save_pretrained(saved)
    assert (saved / "optimizer.pt").read_bytes() == b"state"
    assert torch.equal(logits(roster.load(saved)), logits(model))


def test_saving_twice_writes_the_same_bytes(tmp_path):
    model = routed()
    for name in ("a", "b"):
        model.save_pretrained(tmp_path / name, include_base=True)
    first = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.*")
             if path.is_file()}  # fmt: skip
    for path, content in first.items():
        assert (tmp_path / "b" / path).read_bytes() == content, path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"router": "arow-mbc"}, "unknown router 'arow-mbc': did you mean 'arrow-mbc'"),
        ({"router": "arrow-mbc", "options": {"topk": 2}}, "no option 'topk': did you mean 'top_k'"),
        ({}, "auto reads the experts. example prompts and needs the base.s tokenizer"),
        ({"router": "uniform", "options": {"weights": [1.0]}}, "1 weights were given for 2 experts"),
        ({"router": "phatgoose"}, "has no gate vectors"),
        ({"router": "lora-tle"}, "tokenizer"),
    ],
    ids=["router", "option", "no router", "weights", "gates", "tokenizer"],
)
def test_load_says_what_is_wrong(arguments, message):
    with pytest.raises(roster.RosterError, match=message):
        roster.load(tiny.base(), experts=library(["one", "two"]), **arguments)


def test_a_saved_mixture_takes_no_router(saved):
    with pytest.raises(roster.RosterError, match="has its router; leave router= out"):
        roster.load(tiny.base(), experts=saved, router="uniform")


@pytest.mark.parametrize("name", ["../../outside", "/etc", "two/../two", ".."])
def test_an_expert_is_not_read_from_outside(name, saved, tmp_path):
    shutil.copytree(saved / "experts" / "two", tmp_path / "outside")
    experts = json.loads((saved / "roster.json").read_text(encoding="utf-8"))["experts"]
    edit(saved, experts=[experts[0], {**experts[1], "name": name}])
    with pytest.raises(roster.RosterError, match=r"roster\.json' cannot be read: experts\.1\.name.*cannot be the name"):
        roster.load(saved)


def test_a_pickled_base_is_not_read(saved):
    weights = load_file(saved / "base" / "model.safetensors")
    (saved / "base" / "model.safetensors").unlink()
    torch.save(weights, saved / "base" / "pytorch_model.bin")
    with pytest.raises(roster.RosterError, match="pickled weights, which roster never loads"):
        roster.load(saved)


@pytest.mark.parametrize("value", ["wide", None, [1]])
def test_a_config_of_the_wrong_type_is_refused(value, saved):
    path = saved / "base" / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), "hidden_size": value}), encoding="utf-8"
    )
    with pytest.raises(roster.RosterError, match=r"cannot read a model from '.*base'"):
        roster.load(saved)


def test_what_says_how_files_are_found_reaches_every_file(saved, monkeypatch):
    """Config, weights and tokenizer: a revision or a token for one of them alone would mix two models."""
    import transformers

    asked = []
    for owner in (transformers.AutoConfig, transformers.LlamaForCausalLM, transformers.AutoTokenizer):

        def record(path, owner=owner, original=owner.from_pretrained, **kwargs):
            asked.append((owner.__name__, kwargs.get("revision"), kwargs.get("token"), kwargs.get("local_files_only")))
            return original(path, **kwargs)

        monkeypatch.setattr(owner, "from_pretrained", record)
    roster.load(saved, revision="v1", token="t", local_files_only=True)
    wanted = [(n, "v1", "t", True) for n in ("AutoConfig", "LlamaForCausalLM", "AutoTokenizer")]
    assert asked[:3] == wanted


def test_the_base_is_written_in_shards(tmp_path):
    model = routed(names=["one", "two"])
    model.save_pretrained(tmp_path / "saved", include_base=True, max_shard_size=20_000)
    assert len(list((tmp_path / "saved" / "base").glob("model-*.safetensors"))) > 1
    assert torch.equal(logits(roster.load(tmp_path / "saved")), logits(model))


def test_a_given_state_is_written_instead(tmp_path):
    """What a sharded model gathers: base, routers and experts all come from there."""
    model = routed(names=["one", "two"])
    state = {
        name: torch.zeros_like(tensor)
        for name, tensor in model.state_dict().items()
        if "lora" in name or "roster" in name
    }
    model.save_pretrained(tmp_path / "saved", include_base=True, state_dict={**model.state_dict(), **state})
    again = roster.load(tmp_path / "saved")
    ours = [tensor for name, tensor in again.state_dict().items() if name.startswith("roster") or ".roster." in name]
    assert ours
    assert not any(bool(tensor.any()) for tensor in ours)


def test_the_tokenizer_is_found_in_the_mixture(tmp_path):
    import transformers

    model = routed(names=["one", "two"])
    model.roster.tokenizer = roster.routed.base.load_tokenizer("pocket")
    model.save_pretrained(tmp_path / "saved", include_base=False)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert found("reverse: abc")["input_ids"] == model.roster.tokenizer("reverse: abc")["input_ids"]
