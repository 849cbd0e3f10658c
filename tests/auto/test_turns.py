"""Where the last turn begins, with templates of several shapes."""

import pytest
import torch
from jinja2 import Environment

import tiny
from roster.auto import features
from roster.auto.features import POOLINGS, turn_of
from roster.auto.turns import header_of, last_turn
from roster.prompts import Rendering

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
LLAMA = "{% for m in messages %}<|h|>{{ m.role }}<|/h|>\n{{ m.content }}<|e|>{% endfor %}<|h|>assistant<|/h|>\n"
INST = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>"
    "{% endif %}{% endfor %}"
)
BARE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


class Words:
    """Splits at spaces and at special tokens; knows words by their order of appearance."""

    def __init__(self, template):
        self.chat_template, self.known = template, {}
        self.all_special_tokens = [
            "<|im_start|>",
            "<|im_end|>",
            "<|h|>",
            "<|/h|>",
            "<|e|>",
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
        ]
        self.all_special_ids = [self.id(token) for token in self.all_special_tokens]

    def id(self, word):
        return self.known.setdefault(word, len(self.known))

    def __call__(self, text, add_special_tokens=True):
        for token in [*self.all_special_tokens, "\n"]:
            text = text.replace(token, f" {token} ")
        return {"input_ids": [self.id(word) for word in text.split(" ") if word]}

    def apply_chat_template(self, messages, **_):
        return Environment().from_string(self.chat_template).render(messages=messages)


@pytest.mark.parametrize("template", [CHATML, LLAMA, INST])
def test_the_last_turn_is_what_the_user_said_last(template):
    tokenizer = Words(template)
    rendering = Rendering(tokenizer)
    header = header_of(rendering)
    turns = [("user", "first thing"), ("assistant", "well"), ("user", "second one here")]
    ids = rendering.ids([{"role": role, "content": text} for role, text in turns])
    mask = last_turn(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool), torch.tensor(header))[0]
    words = {number: word for word, number in tokenizer.known.items()}
    kept = [words[each] for each, on in zip(ids, mask.tolist(), strict=True) if on]
    assert kept[:3] == ["second", "one", "here"]
    assert not {"first", "thing", "well"} & set(kept)


def test_without_headers_the_whole_prompt_is_the_turn():
    assert header_of(Rendering(Words(BARE))) == []
    assert header_of(Rendering(Words(CHATML), template=False)) == []
    mask_BS = torch.tensor([[True, True, True, False]])
    assert torch.equal(last_turn(torch.tensor([[5, 6, 7, 0]]), mask_BS, torch.tensor([-1])), mask_BS)


def test_poolings_leave_out_pads_and_the_first_token():
    hidden_BSD = torch.tensor([[[9.0], [1.0], [3.0], [7.0]], [[7.0], [7.0], [9.0], [5.0]]])
    mask_BS = torch.tensor([[True, True, True, False], [False, False, True, True]])
    turn_BS = turn_of(None, mask_BS, torch.tensor([-1]))
    assert POOLINGS["mean"](hidden_BSD, turn_BS).tolist() == [[2.0], [5.0]]
    assert POOLINGS["last"](hidden_BSD, turn_BS).tolist() == [[3.0], [5.0]]
    assert POOLINGS["tail"](hidden_BSD, turn_BS).tolist() == [[2.0], [5.0]]
    alone = turn_of(None, torch.tensor([[True, False]]), torch.tensor([-1]))
    assert alone.tolist() == [[True, False]], "a prompt of one token is that token"


def test_a_common_beginning_is_read_once_and_changes_nothing(monkeypatch):
    model, system = tiny.base(), "{{ '<|im_start|>system\n' + 'be kind and brief and true and clear<|im_end|>\n' }}"
    rendering = Rendering(Words(system + CHATML))
    header_H = torch.tensor(header_of(rendering))
    asked = ["one two", "three", "one four five"]
    prompts = [
        *asked,
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}],
    ]
    places = [(1, "mean"), (2, "last"), (2, "tail")]
    shared = features.features_of(model, rendering, header_H, prompts, places)
    monkeypatch.setattr(features, "WORTHWHILE", 10**6)
    whole = features.features_of(model, rendering, header_H, prompts, places)
    torch.testing.assert_close(shared, whole, atol=1e-4, rtol=2e-3)
    assert not torch.allclose(shared[0], shared[1], atol=1e-3)
