"""A mixture that `auto` routes: who serves, when nobody does, once per prompt, anew in every turn."""

import warnings
from dataclasses import replace

import pytest
import torch

import roster
import tiny
from auto.conftest import LETTERS, prompts, routed, told
from roster import RosterError, pocket
from roster.adapters.attach import attach
from roster.auto.explain import explain
from roster.auto.growing import add, remove
from roster.errors import RosterNote
from roster.library import Library
from roster.library.written import written
from roster.prompts import Rendering
from roster.recipes import RECIPES
from roster.routed import taps
from roster.routed.base import load_base, load_tokenizer

NOBODY = ["98 76 54 32", "1212 3434", "Hello, how are you?"]


def rows(texts):
    ids, mask = tiny.padded([torch.tensor(tiny.Tokenizer()(text)["input_ids"]) for text in texts], "left")
    return {"input_ids": ids, "attention_mask": mask}


def on_duty(model, texts):
    """The expert of each row, by its weight; None for the base."""
    with roster.trace(model) as routes, torch.no_grad():
        model(**rows(texts))
    gates = [routes.gates("model", row)[-1] for row in range(len(texts))]
    return [model.roster.experts[int(gate.argmax())] if gate.any() else None for gate in gates]


def test_new_prompts_go_to_the_adapter_that_they_resemble_and_others_to_nobody(model):
    asked = [(name, text) for name in LETTERS for text in prompts(name, 8, seed=1)]
    found = on_duty(model, [text for _, text in asked])
    assert sum(name == each for (name, _), each in zip(asked, found, strict=True)) >= 23
    assert on_duty(model, NOBODY) == [None] * 3


def test_one_adapter_at_full_weight_is_what_the_recipe_named_does_with_it(model, library):
    named = attach(tiny.base(), library, RECIPES["named"](), recipe="named").eval()
    texts = [prompts("expert 1", 1, seed=2)[0], NOBODY[0]]
    given = {**rows(texts), "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(**given), named.generate(**given, tasks=["expert 1", None]))


def test_abstaining_rows_are_the_bases_own(model):
    given = rows(NOBODY[:1])
    with torch.no_grad():
        assert torch.equal(model(**given).logits, tiny.base()(**given).logits)


def test_the_base_reads_a_prompt_once_and_not_while_its_answer_is_written(model, monkeypatch):
    passes = []
    original = taps.read
    monkeypatch.setattr("roster.routed.deciding.read", lambda *args: passes.append(args) or original(*args))
    model.generate(**rows(prompts("expert 0", 3)), max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert len(passes) == 1


@pytest.mark.parametrize("chat", ["rebuild", "keep"])
def test_every_turn_is_decided_anew(library, chat):
    """With the cache of the turn before: kept as it is, or made anew where another adapter goes on."""
    model = routed(library, chat=chat)
    first = rows(prompts("expert 0", 1))
    out = model.generate(**first, max_new_tokens=3, do_sample=False, pad_token_id=0, return_dict_in_generate=True)
    said = torch.cat([out.sequences[0], rows(["wzyxwzyxwzyxwzyxwzyxzzyyxxwwxyzw"])["input_ids"][0]])[None]
    second = {"input_ids": said, "attention_mask": torch.ones_like(said), "max_new_tokens": 4, "do_sample": False}
    fresh = model.generate(**second, pad_token_id=0)
    kept = model.generate(**second, pad_token_id=0, past_key_values=out.past_key_values)
    with roster.trace(model) as routes, torch.no_grad():
        model(input_ids=said)
    assert int(routes.gates("model", 0)[-1].argmax()) == 2
    if chat == "rebuild":
        assert torch.equal(kept, fresh)
    assert kept.shape == fresh.shape
    # A turn that goes to the same adapter keeps its cache and answers the same.
    again = torch.cat([first["input_ids"][0], rows(["abcdabcd"])["input_ids"][0]])[None]
    begun = model.generate(**first, max_new_tokens=1, return_dict_in_generate=True, pad_token_id=0).past_key_values
    more = {"input_ids": again, "attention_mask": torch.ones_like(again), "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(
        model.generate(**more, pad_token_id=0, past_key_values=begun), model.generate(**more, pad_token_id=0)
    )


def test_beams_and_static_caches_are_decided_on_too(model):
    given = {**rows(prompts("expert 2", 2)), "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(**given)
    assert torch.equal(model.generate(**given, cache_implementation="static"), plain)
    assert model.generate(**given, num_beams=2).shape == plain.shape


def test_it_explains_itself(model):
    model.roster.tokenizer = tiny.Tokenizer()
    found = explain(model, prompts("expert 1", 1, seed=5)[0])
    assert found.weights == {"expert 1": pytest.approx(1.0)}
    assert found.ranking[0].expert == "expert 1"
    assert sum(each.probability for each in found.ranking) + found.nobody == pytest.approx(1.0)
    assert {name for name, _, _ in found.nearest[:3]} == {"expert 1"}
    assert found.nearest[0][1] in model.roster.adapters["expert 1"].card.examples
    nobody = explain(model, NOBODY[0])
    assert nobody.weights == {}
    assert "nobody" in nobody.why
    with pytest.raises(RosterError, match="cannot be explained"):
        explain(attach(tiny.base(), tiny.library(tiny.base()), RECIPES["uniform"](), recipe="uniform"), "abc")


def test_copies_are_one_class_and_the_disturbed_one_does_not_serve(library):
    noisy = library["expert 1"]
    generator = torch.Generator().manual_seed(0)
    modules = {
        name: replace(update, A_RD=update.A_RD + torch.randn(update.A_RD.shape, generator=generator) * 3)
        for name, update in noisy.modules.items()
    }
    copies = {
        "copy": replace(library["expert 0"], name="copy"),
        "noisy": replace(noisy, name="noisy", modules=modules, weights_hash="other"),
    }
    model = routed(Library({**library, **copies}))
    known = model.roster.head.knowledge
    assert known.class_E.tolist() == [0, 1, 2, 0, 1]
    assert known.means_FM.shape[1] == 4
    found = on_duty(model, [text for name in LETTERS for text in prompts(name, 4, seed=6)])
    assert found[:4] == ["expert 0"] * 4


def test_adding_and_removing_touches_no_other_adapters_scores(library):
    small = Library({name: library[name] for name in ("expert 0", "expert 1")})
    model = routed(small)
    before = model.roster.head.knowledge
    grown = add(model, library["expert 2"])
    after = grown.roster.head.knowledge
    torch.testing.assert_close(after.means_FM[:, [0, 1, 3]], before.means_FM)
    assert torch.equal(after.center_F, before.center_F)
    assert on_duty(grown, prompts("expert 2", 3, seed=7)) == ["expert 2"] * 3
    assert on_duty(grown, prompts("expert 0", 3, seed=7)) == ["expert 0"] * 3
    with pytest.raises(RosterError, match="already"):
        add(grown, library["expert 2"])
    with pytest.raises(RosterError, match="no expert 'expert 7'"):
        remove(grown, "expert 7")
    shrunk = remove(grown, "expert 0")
    assert shrunk.roster.experts == ("expert 1", "expert 2")
    assert on_duty(shrunk, prompts("expert 2", 3, seed=7)) == ["expert 2"] * 3
    assert on_duty(shrunk, prompts("expert 1", 3, seed=7)) == ["expert 1"] * 3


def test_the_heir_of_a_removed_copy_serves(library):
    model = routed(Library({**library, "copy": replace(library["expert 0"], name="copy")}))
    shrunk = remove(model, "expert 0")
    assert on_duty(shrunk, prompts("expert 0", 3, seed=8)) == ["copy"] * 3


def test_what_cannot_be_used_is_told_before_any_work(library, tmp_path):
    bare = told(library, {**{name: prompts(name, 3) for name in LETTERS}, "expert 1": []})
    with pytest.raises(RosterError, match=r"expert 'expert 1' has none.*--examples.*--router arrow-mbc"):
        routed(bare)
    with pytest.raises(RosterError, match="there is no layer 9"):
        routed(library, layer=9)
    with pytest.raises(RosterError, match=r"at most 0\.5"):
        RECIPES["auto"]({"mix": 0.7})
    file = tmp_path / "examples.jsonl"
    file.write_text('{"expert": "expert 9", "prompt": "a"}\n')
    with pytest.raises(RosterError, match="'expert 9', which the library has not"):
        roster.load(tiny.base(), experts=library, examples=file, tokenizer=tiny.Tokenizer())
    file.write_text('{"expert": "expert 1", "promt": "a"}\n')
    with pytest.raises(RosterError, match=r"line 1: unknown field 'promt'"):
        roster.load(tiny.base(), experts=library, examples=file, tokenizer=tiny.Tokenizer())


def test_one_example_is_enough_to_be_told_from_others(library):
    model = routed(told(library, {name: prompts(name, 1) for name in LETTERS}))
    found = on_duty(model, [prompts(name, 1)[0] for name in LETTERS])
    assert found == list(LETTERS)


def test_auto_is_the_default_and_examples_may_come_from_outside(library):
    given = {name: prompts(name, 5, seed=9) for name in LETTERS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = roster.load(tiny.base(), experts=library, examples=given, tokenizer=tiny.Tokenizer())
    assert model.roster.recipe == "auto"
    assert model.roster.adapters["expert 0"].card.examples == given["expert 0"]


def test_close_calls_may_be_shared(library):
    model = routed(library, mix=0.5, abstain=False)
    judge = model.roster.head
    C = judge.knowledge.means_FM.shape[1]
    scores = torch.full((2, C), -1.0)
    scores[0, :2], scores[1, 0] = 0.5, 0.5
    expert_BK, weight_BK = judge.decide(scores).unbind(1)
    torch.testing.assert_close(weight_BK, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    assert sorted(expert_BK[0].tolist()) == [0, 1]


def test_bf16_leaves_the_judge_in_float32(library):
    model = routed(library).to(torch.bfloat16)
    assert model.roster.head.knowledge.means_FM.dtype == torch.float32
    assert on_duty(model, prompts("expert 0", 2, seed=3)) == ["expert 0"] * 2


def test_the_base_writes_examples_for_experts_that_have_a_description_only():
    model, rendering = load_base("pocket")[0], Rendering(load_tokenizer("pocket"))
    whole = Library.read(pocket.experts_path())
    reverse = whole["reverse"]
    card = reverse.card.model_copy(update={"examples": [], "description": "Write the text backwards."})
    library = Library({"reverse": replace(reverse, card=card), "sort": whole["sort"]})
    with pytest.warns(RosterNote, match="the base itself wrote example prompts for reverse, from"):
        found = written(model, library, rendering)
    assert found["reverse"].card.examples
    assert all(isinstance(each, str) and each for each in found["reverse"].card.examples)
    assert found["sort"].card.examples == whole["sort"].card.examples
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = written(model, library, rendering)
    assert again["reverse"].card.examples == found["reverse"].card.examples, "the same at each call"
