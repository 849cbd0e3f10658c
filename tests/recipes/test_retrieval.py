"""LoraRetriever and LORAUTER: who is retrieved, with what weight, and what is told where they cannot work."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import roster
import tiny
from roster.adapters.attach import attach
from roster.auto.retrieving import Retriever
from roster.errors import RosterError
from roster.library import Library
from roster.recipes import RECIPES

LETTERS = {"expert 0": "abcd", "expert 1": "mnop", "expert 2": "wxyz"}


@pytest.fixture(scope="module")
def library():
    plain = tiny.library(tiny.base(), 3)
    cards = {}
    for name, letters in LETTERS.items():
        examples = [letters * 2, letters[::-1] * 2, letters[:2] * 5]
        cards[name] = plain[name].card.model_copy(update={"task": name, "examples": examples})
    return Library({name: replace(plain[name], card=card) for name, card in cards.items()})


def routed(slug, library, **options):
    recipe = RECIPES[slug]
    return attach(
        tiny.base(), library, recipe(options), recipe=slug, options=options, tokenizer=tiny.Tokenizer()
    ).eval()


def gates(model, text):
    ids = torch.tensor([tiny.Tokenizer()(text)["input_ids"]])
    with roster.trace(model) as routes, torch.no_grad():
        model(input_ids=ids)
    return torch.as_tensor(routes.gates("model", 0)[-1])


@pytest.mark.parametrize("slug", ["loraretriever", "lorauter"])
def test_the_resembling_adapter_serves_alone_where_one_is_asked_for(slug, library):
    model = routed(slug, library, top_k=1)
    for at, letters in enumerate(LETTERS.values()):
        torch.testing.assert_close(gates(model, letters[1:] * 3), F.one_hot(torch.tensor(at), 3).float())


def test_loraretriever_weighs_alike_and_lorauter_by_similarity(library):
    found = gates(routed("loraretriever", library, top_k=2), "abcdabca")
    assert sorted(found.tolist()) == pytest.approx([0.0, 0.5, 0.5])
    model = routed("lorauter", library, top_k=3, temperature=0.2)
    found = gates(model, "abcdabca")
    assert int(found.argmax()) == 0
    # By hand, from what the retriever keeps.
    head, one = model.roster.head, Retriever(3, 3, 0.2)
    features = torch.randn(1, 32)
    one.learn(torch.eye(3, 32) + 0.1, [0, 1, 2], [2, 1, 0], (1, torch.tensor([-1])))
    means = F.normalize(torch.eye(3, 32) + 0.1, dim=1)
    cosine = F.cosine_similarity(F.normalize(features, dim=1) - means.mean(0), means - means.mean(0))
    expert_K, weight_K = one(features)[0]
    expected = torch.zeros(3).index_add(0, torch.tensor([2, 1, 0]), (cosine / 0.2).softmax(0))
    torch.testing.assert_close(torch.zeros(3).index_add(0, expert_K.long(), weight_K), expected)
    assert head.blocks == (1,)


def test_lorauter_takes_the_sound_adapter_of_a_task(library):
    """Two are for one task: the one that says the same to everybody does not serve."""
    dead = {name: replace(update, B_OR=update.B_OR * 0) for name, update in library["expert 1"].modules.items()}
    twin = replace(library["expert 1"], name="a twin", modules=dead, weights_hash="other")
    model = routed("lorauter", Library({"a twin": twin, **library}), top_k=1)
    assert len(model.roster.head.expert_C) == 3
    served = model.roster.experts[int(gates(model, "mnopmn").argmax())]
    assert served in ("a twin", "expert 1")
    assert int((gates(model, "mnopmn") > 0).sum()) == 1


def test_saved_and_loaded_it_retrieves_the_same(library, tmp_path):
    model = routed("lorauter", library)
    model.roster.base_name = "tiny/base"
    before = gates(model, "wxyzwx")
    model.save_pretrained(tmp_path / "mixture", include_base=False)
    again = roster.load(tiny.base(), experts=tmp_path / "mixture").eval()
    torch.testing.assert_close(gates(again, "wxyzwx"), before)


def test_what_cannot_be_is_told(library):
    with pytest.raises(RosterError, match="at least 1"):
        RECIPES["loraretriever"]({"top_k": 0})
    with pytest.raises(RosterError, match="above 0"):
        RECIPES["lorauter"]({"temperature": 0.0})
    with pytest.raises(RosterError, match="there is no layer 9"):
        routed("loraretriever", library, layer=9)
    with pytest.raises(RosterError, match="tokenizer"):
        attach(tiny.base(), library, RECIPES["loraretriever"](), recipe="loraretriever")
    bare = replace(library["expert 0"], card=library["expert 0"].card.model_copy(update={"examples": []}))
    with pytest.raises(RosterError, match="has none"):
        routed("lorauter", Library({**library, "expert 0": bare}))
