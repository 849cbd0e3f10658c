"""Prompts as texts and as chats: rendered as transformers renders them, everywhere alike."""

import json

import pytest
import torch

import tiny
from cli.conftest import refuse, succeed
from roster.api import load
from roster.errors import RosterError, RosterNote
from roster.library import Library
from roster.library.templates import check_templates
from roster.prompts import RAW, Rendering
from roster.saving import MANIFEST
from roster.train.data import Encoded, Row, read_rows

CHAT = [
    {"role": "user", "content": "name a colour"},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": "an other"},
]
THINKS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<e>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: (thinks)' }}{% endif %}"
)


def user(text):
    return [{"role": "user", "content": text}]


def rendered(tokenizer, messages, **kwargs):
    """What transformers makes of a chat."""
    asked = {"add_generation_prompt": True, "return_dict": False, **kwargs}
    return tokenizer.apply_chat_template(messages, tokenize=True, **asked)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.chat_tokenizer()


def test_texts_and_chats_are_rendered_as_transformers_renders_them(tokenizer):
    rendering = Rendering(tokenizer)
    assert rendering.ids("hello") == rendered(tokenizer, user("hello"))
    assert rendering.ids(CHAT) == rendered(tokenizer, CHAT)
    both = rendering.inputs(["hello", CHAT])
    given = {"return_tensors": "pt", "padding": True, "return_dict": True, "tokenizer_kwargs": {"padding_side": "left"}}
    theirs = rendered(tokenizer, [user("hello"), CHAT], **given)
    assert torch.equal(both["input_ids"], theirs["input_ids"])
    assert torch.equal(both["attention_mask"], theirs["attention_mask"])


def test_without_a_template_a_text_is_read_as_it_stands(tokenizer):
    plain = tiny.chat_tokenizer(template=None)
    assert Rendering(plain).ids("hello") == plain("hello")["input_ids"]
    assert Rendering(tokenizer, template=False).ids("<s>hello") == tokenizer("<s>hello")["input_ids"]
    for rendering in (Rendering(plain), Rendering(tokenizer, template=False)):
        assert rendering.digest == RAW
        with pytest.raises(RosterError, match="only a chat template can render"):
            rendering.ids(CHAT)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("system: be kind<e>user: hello<e>", "'<e>', which the chat template writes itself"),
        (CHAT[:2], "must end with a turn that is to be answered"),
        ([], "must end with a turn"),
    ],
)
def test_prompts_that_a_template_would_spoil_are_refused(prompt, message, tokenizer):
    with pytest.raises(RosterError, match=message):
        Rendering(tokenizer).ids(prompt)


def test_what_a_template_refuses_is_said(tokenizer):
    strict = tiny.chat_tokenizer("{{ raise_exception('no system turns here') }}")
    with pytest.raises(RosterError, match="the chat template refuses the messages: no system turns here"):
        Rendering(strict).ids("hello")


@pytest.mark.parametrize("prompt", ["an other", CHAT])
def test_the_answer_that_is_learned_is_the_template_s_turn(prompt, tokenizer):
    asked, told = Rendering(tokenizer).pair(prompt, "blue")
    turns = user(prompt) if isinstance(prompt, str) else prompt
    whole = [*turns, {"role": "assistant", "content": "blue"}]
    assert asked + told == rendered(tokenizer, whole, add_generation_prompt=False)


def test_an_answer_after_an_opened_thought_ends_with_the_end_of_the_sequence():
    thinking = tiny.chat_tokenizer(THINKS)
    asked, told = Rendering(thinking).pair("hello", "blue")
    assert thinking.decode(asked).endswith("(thinks)")
    assert thinking.decode(told) == "blue<e>"


def test_only_the_answer_has_labels(tokenizer):
    row = Row(messages=[*CHAT, {"role": "assistant", "content": "blue"}])
    assert row.answer == "blue"
    (item,) = Encoded([row], Rendering(tokenizer), None)
    asked, told = Rendering(tokenizer).pair(CHAT, "blue")
    assert item["input_ids"] == asked + told
    assert item["labels"] == [-100] * len(asked) + told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "a", "messages": CHAT, "answer": "b"}, "line 1: a row has either a prompt or messages"),
        ({"answer": "b"}, "line 1: a row has either a prompt or messages"),
        ({"messages": CHAT[:2], "answer": "b"}, "line 1: messages end with the assistant's turn"),
        ({"messages": [{"role": "user"}], "answer": "b"}, "line 1: messages.0.content: Field required"),
    ],
)
def test_rows_with_half_a_prompt_are_named(line, message, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(RosterError, match=message):
        read_rows(tmp_path / "rows.jsonl")


def library(*templates, example="0 0"):
    made = tiny.library(tiny.chat_base(), count=len(templates) or 2)
    adapters = dict(made)
    for name, template in zip(adapters, templates or (None, None), strict=True):
        card = adapters[name].card.model_copy(update={"template": template, "examples": [example]})
        adapters[name] = type(adapters[name])(**{**vars(adapters[name]), "card": card})
    return Library(adapters)


def test_experts_of_another_template_are_refused_and_raw_ones_told(tokenizer, recwarn):
    rendering = Rendering(tokenizer)
    check_templates(library(rendering.digest, None), rendering)
    assert not recwarn.list
    with pytest.raises(RosterError, match="'expert 1' was trained with the chat template 0123"):
        check_templates(library(None, "0123"), rendering)
    with pytest.raises(RosterError, match="a tokenizer which has none"):
        check_templates(library(rendering.digest), Rendering(tiny.chat_tokenizer(None)))
    with pytest.warns(RosterNote, match="trained on raw text: 'expert 1'; but prompts go through"):
        check_templates(library(rendering.digest, RAW), rendering)
    check_templates(library(RAW, "0123"), Rendering(tokenizer, template=False))


def vectors(example, tokenizer, **kwargs):
    model = load(
        tiny.chat_base(), experts=library(None, None, example=example), router="lora-tle", tokenizer=tokenizer,
        options={"embed": "hidden"}, **kwargs,
    )  # fmt: skip
    return model.roster.head.center_D


def test_examples_on_cards_are_rendered_like_prompts(tokenizer):
    chat = vectors(user("good day"), tokenizer)
    assert torch.equal(vectors("good day", tokenizer), chat)
    raw = vectors("good day", tokenizer, template=False)
    assert not torch.allclose(raw, chat)
    assert torch.equal(vectors("<s>system: be kind<e>user: good day<e>assistant: ", tokenizer, template=False), chat)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """A base with a chat template and a folder of experts, as files."""
    where = tmp_path_factory.mktemp("chat")
    model = tiny.chat_base()
    model.save_pretrained(where / "base")
    tokenizer.save_pretrained(where / "base")
    tiny.library(model, count=2, folder=where / "experts")
    return where


@pytest.fixture(scope="module")
def mixture(folders):
    succeed("build", folders / "base", folders / "experts", "--router", "uniform", "--out", folders / "mixture")
    return folders / "mixture"


def said(mixture, ids):
    """What transformers' own generate answers to these tokens."""
    model = load(mixture)
    out = model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False, pad_token_id=0)
    return model.roster.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)


def test_generate_renders_by_default_and_leaves_it_when_told(mixture, tokenizer, tmp_path):
    few = ("--max-new-tokens", 5)
    assert succeed("generate", mixture, "hello", *few) == said(mixture, rendered(tokenizer, user("hello"))) + "\n"
    raw = said(mixture, tokenizer("hello")["input_ids"])
    assert succeed("generate", mixture, "hello", "--no-template", *few) == raw + "\n"
    (tmp_path / "chat.json").write_text(json.dumps(CHAT))
    chat = said(mixture, rendered(tokenizer, CHAT))
    assert succeed("generate", mixture, "--messages", tmp_path / "chat.json", *few) == chat + "\n"
    assert len({raw, chat}) == 2


def test_generate_refuses_what_is_no_chat(mixture, tmp_path):
    (tmp_path / "chat.json").write_text('{"role": "user"}')
    assert "holds no chat" in refuse("generate", mixture, "--messages", tmp_path / "chat.json")
    assert "either a prompt or --messages" in refuse("generate", mixture)
    assert "only a chat template can render" in refuse(
        "generate", mixture, "--no-template", "--messages", write(tmp_path / "good.json", CHAT)
    )


def write(path, value):
    path.write_text(json.dumps(value))
    return path


def test_eval_reads_messages(mixture, tokenizer, tmp_path):
    right = said(mixture, rendered(tokenizer, CHAT))
    rows = [{"messages": CHAT, "answer": right}, {"prompt": "hello", "answer": "never said"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = succeed("eval", mixture, "--data", tmp_path / "rows.jsonl", "--max-new-tokens", 5, "--json")
    assert json.loads(told)["mixture"]["all"]["right"] == 1


def test_a_saved_mixture_keeps_how_it_was_built(folders, tokenizer):
    for template in (True, False):
        model = load(folders / "base", experts=folders / "experts", router="uniform", template=template)
        model.save_pretrained(folders / "kept")
        again = load(folders / "kept")
        assert again.roster.template == template
        assert torch.equal(again.inputs("hello")["input_ids"], model.inputs("hello")["input_ids"])
    assert load(folders / "kept", template=True).inputs("hello")["input_ids"].tolist() == [
        rendered(tokenizer, user("hello"))
    ]


def test_folders_that_say_nothing_of_templates_are_of_raw_text(mixture):
    manifest = json.loads((mixture / MANIFEST).read_text())
    old = {name: value for name, value in manifest.items() if name != "template"}
    try:
        (mixture / MANIFEST).write_text(json.dumps(old))
        with pytest.warns(RosterNote, match="was built before chat templates"):
            assert not load(mixture).roster.template
    finally:
        (mixture / MANIFEST).write_text(json.dumps(manifest))


def test_eval_writes_and_shows_answers(mixture, tokenizer, tmp_path):
    rows = [{"messages": CHAT, "answer": "never said"}, {"prompt": "hello", "answer": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("eval", mixture, "--data", tmp_path / "rows.jsonl", "--max-new-tokens", 5)
    told = succeed(*asked, "--out", tmp_path / "said.jsonl", "--show", 2)
    first, second = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert first["said"]["mixture"] == said(mixture, rendered(tokenizer, CHAT))
    assert first["right"] == {"mixture": False, "base": False}
    assert second["right"]["base"], "without an answer the base's own is the measure"
    assert "never said" in told
    assert "(as the base answers)" in told
    assert "--base-too" in refuse(*asked, "--no-base-too")
