"""Cards from data, and which experts could go."""

import numpy as np
import pytest
import torch

import tiny
from roster import RosterError
from roster.library import Card, Library, LowRank, make_adapter
from roster.library.describing import sentence, spread
from roster.library.pruning import near_identical
from roster.prompts import Rendering

PROMPTS = ["sort: b a", "sort: c a", "sort: b a", "reverse: abc", "upper: abc", "sort: d a"]


def test_examples_differ_from_one_another():
    found = spread(PROMPTS, 3)
    assert len(found) == 3
    assert {each.partition(":")[0] for each in found} == {"sort", "reverse", "upper"}
    assert spread(PROMPTS, 9) == ["sort: b a", "sort: c a", "reverse: abc", "upper: abc", "sort: d a"]
    with pytest.raises(RosterError, match="0 prompts"):
        spread([], 3)


def test_by_features_where_there_are_some():
    """Two heaps of points: one example of each, whatever the words."""
    features = np.array([[0.0, 0], [0, 1], [0, 0.1], [9, 0], [9, 1], [9, 0.1]])
    found = spread([f"prompt {number}" for number in range(6)], 2, features)
    assert len({int(each[-1]) < 3 for each in found}) == 2


def test_many_prompts_are_thinned_out():
    assert len(spread([f"{number} apples" for number in range(5000)], 4)) == 4


class Writer:
    """Says one thing, and keeps what it was asked."""

    device = torch.device("cpu")

    def __init__(self, tokenizer, says):
        self.tokenizer, self.says, self.asked = tokenizer, says, ""

    def generate(self, input_ids, **kwargs):
        self.asked = self.tokenizer.decode(input_ids[0])
        told = torch.tensor([self.tokenizer(self.says, add_special_tokens=False)["input_ids"]], dtype=torch.long)
        return torch.cat([input_ids, told], 1)


def test_a_language_model_writes_the_sentence():
    rendering = Rendering(tiny.chat_tokenizer())
    writer = Writer(rendering.tokenizer, ' "Sorts letters."\nMore.')
    assert sentence(writer, rendering, PROMPTS) == "Sorts letters."
    assert "- reverse: abc" in writer.asked
    writer.says = " "
    with pytest.raises(RosterError, match="wrote no description"):
        sentence(writer, rendering, PROMPTS)


def library_of(updates, cards):
    return Library(
        {
            name: make_adapter(name, {"layer": LowRank(A, B, 1.0)}, "b", Card(task=name, examples=cards.get(name, [])))
            for name, (A, B) in updates.items()
        }
    )


def test_near_identical_updates():
    """Another writing of one update, one that was disturbed a little, and one that is its own."""
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(3, 12, generator=generator), torch.randn(10, 3, generator=generator)
    M = torch.randn(3, 3, generator=generator) + 3 * torch.eye(3)
    updates = {
        "first": (A, B),
        "rewritten": (torch.linalg.inv(M) @ A, B @ M),
        "disturbed": (A + 0.02 * torch.randn(3, 12, generator=generator), B),
        "opposite": (A, -B),
        "own": (torch.randn(3, 12, generator=generator), B),
    }
    library = library_of(updates, {"rewritten": ["an example"]})
    found = {twin.name: (twin.kept, twin.cosine) for twin in near_identical(library)}
    assert found.keys() == {"first", "disturbed"}
    assert {kept for kept, _ in found.values()} == {"rewritten"}
    assert found["first"][1] == pytest.approx(1, abs=1e-5)
    assert [twin.name for twin in near_identical(library, 1 - 1e-6)] == ["first"]
    with pytest.raises(RosterError, match="above 0, up to 1"):
        near_identical(library, 0)
