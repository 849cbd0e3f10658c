"""Choosing experts by shots: planted experts, guessers and twins; figures against PEFT's one adapter."""

import itertools

import peft
import pytest
import torch

import tiny
from roster import RosterError
from roster.library import Library, LowRank, make_adapter, similarity
from roster.prompts import Rendering
from roster.train.data import Row
from roster.train.kshot import Standing, _exact, _ordered, choose, least_alike, rank

# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SHOTS = [Row(prompt=f"{a}{b}?", answer=f"{b} so #{a}") for a, b in ("ab", "cd", "xy", "no", "tu")]


def rendering():
    return Rendering(tiny.chat_tokenizer(None), False)


def library(count=3, folder=None):
    return tiny.library(tiny.chat_base(), count, folder=folder)


def test_losses_and_answers_are_those_of_one_adapter_alone(tmp_path):
    made, reads = library(folder=tmp_path), rendering()
    base = tiny.chat_base()
    before = {name for name, _ in base.named_modules()}
    standings = {each.name: each for each in rank(base, made, SHOTS, reads, mark="#", batch=2)}
    assert {name for name, _ in base.named_modules()} == before  # it comes back plain
    for name, adapter in made.items():
        plain = peft.PeftModel.from_pretrained(tiny.chat_base(), str(adapter.path)).eval()
        total, told = 0.0, 0
        for shot in SHOTS:
            asked, answer = reads.pair(shot.asked, shot.answer)
            with torch.no_grad():
                logits = plain(input_ids=torch.tensor([asked + answer])).logits[0, len(asked) - 1 : -1]
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
            told += len(answer)
        assert standings[name].nats == pytest.approx(total / told, rel=1e-4)


class Writer:
    """A model that writes what it is told to, by the prompt; rows come padded on the left."""

    device = torch.device("cpu")

    def __init__(self, told):
        self.told = told

    def generate(self, input_ids, attention_mask, tasks, max_new_tokens, **others):
        tokenizer = tiny.chat_tokenizer(None)
        rows = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            asked = tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)
            written = tokenizer(self.told[tasks[0]][asked])["input_ids"][:max_new_tokens]
            rows.append(torch.tensor(written + [0] * (max_new_tokens - len(written))))
        return torch.cat([input_ids, torch.stack(rows)], dim=1)


@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize(("mark", "share"), [(None, 1 / 3), ("#", 2 / 3)])
def test_right_answers_are_counted_whole_or_after_the_mark(batch, mark, share):
    shots = [
        Row(prompt="one?", answer="so #1"),
        Row(prompt="two and two?", answer="so #4"),
        Row(prompt="x", answer="#7"),
    ]
    told = {"e": {"one?": "so #1", "two and two?": "no #4", "x": "7"}}
    assert _exact(Writer(told), "e", shots, rendering(), mark, batch) == pytest.approx(share)


def test_a_lucky_guesser_does_not_pass_for_an_expert():
    """By exact answers alone the guesser would be first."""
    found = [
        Standing("guesser", 0.9, 5.0), Standing("expert", 0.8, 0.5), Standing("other", 0.6, 0.7),
        Standing("fluent", 0.1, 0.4), Standing("neither", 0.1, 6.0),
    ]  # fmt: skip
    assert max(found, key=lambda each: each.exact).name == "guesser"
    assert [each.name for each in _ordered(found)] == ["expert", "fluent", "guesser", "other", "neither"]


def test_the_group_is_the_best_and_those_least_like_each_other():
    made = library(6)
    twin = make_adapter("twin", made["expert 0"].modules, "tiny/base")
    nearly = {n: LowRank(u.A_RD + 0.1 * torch.randn_like(u.A_RD), u.B_OR, u.scale) for n, u in
              made["expert 1"].modules.items()}  # fmt: skip
    everyone = Library({**made, "twin": twin, "nearly": make_adapter("nearly", nearly, "tiny/base")})
    names = ["expert 0", "twin", "expert 1", "nearly", "expert 2"]
    found = least_alike(everyone, names, 3)
    assert found[0] == "expert 0"
    assert "twin" not in found
    assert not {"expert 1", "nearly"} <= set(found)
    alike = similarity(Library({name: everyone[name] for name in names})).abs()
    least = min(
        (float(sum(alike[a, b] for a, b in itertools.combinations((0, *rest), 2))), rest)
        for rest in itertools.combinations(range(1, 5), 2)
    )
    assert found == [names[0], *(names[index] for index in least[1])]


def test_choose_gives_a_library_of_so_many():
    made = library(4)
    ranked = rank(tiny.chat_base(), made, SHOTS, rendering())
    found = choose(tiny.chat_base(), made, SHOTS, rendering(), count=2, among=3)
    assert found.names[0] == ranked[0].name
    assert len(found) == 2
    assert set(found.names) <= {each.name for each in ranked[:3]}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"count": 5}, "cannot choose 5 experts of 3"),
        ({"count": 3, "among": 2}, "among the best 2"),
        ({"count": 2, "mark": "!!"}, "with '!!' in it"),
    ],
)
def test_what_cannot_be_is_refused(settings, says):
    with pytest.raises(RosterError, match=says):
        choose(tiny.chat_base(), library(), SHOTS, rendering(), **settings)


def test_shots_are_needed():
    with pytest.raises(RosterError, match="give at least one row"):
        rank(tiny.chat_base(), library(), [], rendering())
