"""Plain checkpoints on rows of JSONL, against transformers' own loss and plain definitions."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from roster import pocket
from roster.arena.checkpoints import Item, compare, measure, read_items
from roster.errors import RosterError
from roster.prompts import Rendering


@pytest.fixture(scope="module")
def model():
    folder = str(pocket.base_path())
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def loss(model, ids, start=1):
    labels = torch.tensor([[-100] * start + ids[start:]])
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), labels=labels).loss.item()


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_perplexity_of_texts_is_that_of_transformers_loss(model):
    net, tokenizer = model
    texts = ["reverse: abcd = dcba", "sort: ca = ac"]
    found, tokens = measure(net, tokenizer, [Item(text=each) for each in texts])
    rows = [tokenizer(each)["input_ids"] for each in texts]
    nats = sum(loss(net, row) * (len(row) - 1) for row in rows)
    assert tokens == sum(len(row) - 1 for row in rows)
    assert found == {"perplexity": pytest.approx(math.exp(nats / tokens), rel=1e-5)}


def test_of_answers_only_the_answers_tokens_count(model):
    net, tokenizer = model
    before, after = Rendering.of(tokenizer).pair("reverse: abcd =", " dcba")
    found, tokens = measure(net, tokenizer, [Item(prompt="reverse: abcd =", answer=" dcba")])
    assert tokens == len(after)
    assert found["perplexity"] == pytest.approx(math.exp(loss(net, before + after, len(before))), rel=1e-5)
    assert found["generation"]["rows"] == 1
    assert "choice" not in found


def test_choices_are_taken_by_their_likelihood_and_not_generated(model):
    net, tokenizer = model
    choices = (" dcba", " abcd", " zz")
    pairs = [Rendering.of(tokenizer).pair("reverse: abcd =", each) for each in choices]
    losses = [loss(net, before + after, len(before)) for before, after in pairs]
    likeliest = choices[losses.index(min(losses))]
    for answer in choices:
        found, _ = measure(net, tokenizer, [Item(prompt="reverse: abcd =", answer=answer, choices=choices)])
        assert found["choice"]["accuracy"] == (answer == likeliest)
        assert "generation" not in found


def test_generation_is_the_greedy_answer_as_a_whole(model):
    net, tokenizer = model
    inputs = tokenizer("reverse: abcd =", return_tensors="pt")
    out = net.generate(**inputs, max_new_tokens=8, do_sample=False)
    said = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    items = [Item(prompt="reverse: abcd =", answer=each) for each in (said, said + "x")]
    found, _ = measure(net, tokenizer, items, max_new_tokens=8)
    assert found["generation"]["accuracy"] == 0.5
    assert found["generation"]["low"] == pytest.approx(0.0945, abs=1e-4)  # Wilson's interval of 1 in 2


def test_models_stand_beside_each_other(tmp_path):
    items = read_items(write(tmp_path / "f.jsonl", {"text": "reverse: ab = ba"}, {"text": "sort: ba = ab"}))
    told = compare({"one": str(pocket.base_path()), "two": str(pocket.base_path())}, items, "f.jsonl")
    assert told["models"]["one"] == told["models"]["two"]
    assert told["rows"] == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"txt": "a"}, "line 1: unknown field 'txt'.*'text'"),
        ({"text": "a", "prompt": "b"}, "one of them"),
        ({"prompt": "a", "answer": 3}, "answer is a int"),
        ({"prompt": "a", "answer": "b", "choices": ["c", "d"]}, "with the answer among them"),
        ({"text": "a", "answer": "b"}, "call it a prompt"),
        ({"messages": "a", "answer": "b"}, "messages must be a list"),
        ([1], "must be an object"),
    ],
)
def test_malformed_rows_are_named(row, said, tmp_path):
    with pytest.raises(RosterError, match=said):
        read_items(write(tmp_path / "f.jsonl", row))
