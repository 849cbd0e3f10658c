"""One expert from data: what is learned, its card, when it stops, and that a broken run ends as an unbroken one."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import tiny
from roster import RosterError
from roster.api import load
from roster.library import digest, fingerprint, read_adapter
from roster.library.reading import WEIGHTS
from roster.prompts import Rendering
from roster.routed.base import load_base
from roster.train import Lesson, Row, train_expert
from roster.train import expert as module

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*pin_memory.*", "ignore:.*is_gradient_checkpointing.*"
)  # PEFT asks for it
ROWS = [Row(prompt=f"say {n % 5}", answer="abc") for n in range(24)]
QUICK = Lesson(rank=4, alpha=8, epochs=2, batch_size=4, learning_rate=3e-2, looks=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.chat_base().save_pretrained(folder)
    tiny.chat_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapters") / "abc"
    return out, train_expert(base, ROWS, out, lesson=QUICK)


def test_the_expert_learns_its_answers_through_the_chat_template(base, trained):
    out, record = trained
    model = load(base, experts=out.parent, router="uniform")
    ids = model.inputs("say 3")
    told = model.generate(**ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, ids["input_ids"].shape[1] :]
    assert model.roster.tokenizer.decode(told, skip_special_tokens=True) == "abc"
    assert record["learned"] == 22
    assert record["held_out"] == 2


def test_the_card_says_what_a_router_and_a_reader_need(base, trained):
    out, _ = trained
    adapter = read_adapter(out)
    card, tokenizer = adapter.card, tiny.chat_tokenizer()
    assert card.task == "abc"
    assert card.template == Rendering(tokenizer).digest
    assert card.weights_hash == adapter.weights_hash
    assert card.base_hash == digest(fingerprint(load_base(base)[0]))
    assert len(card.examples) == 20
    assert set(card.examples) <= {row.prompt for row in ROWS}
    texts = [path.read_text() for path in out.iterdir() if path.suffix != ".safetensors"]
    assert not any(str(base) in text for text in texts), "no path of this machine"
    assert not out.with_name("abc.training").exists()


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 7:
            raise KeyboardInterrupt


def test_a_broken_run_ends_where_an_unbroken_one_does(base, trained, tmp_path, monkeypatch, capsys):
    told = module.Told
    with monkeypatch.context() as patched:
        patched.setattr(module, "Told", Stop)
        with pytest.raises(KeyboardInterrupt):
            train_expert(base, ROWS, tmp_path / "abc", lesson=QUICK)
    assert not (tmp_path / "abc").exists()
    assert module.Told is told
    train_expert(base, ROWS, tmp_path / "abc", lesson=QUICK)
    said = capsys.readouterr()
    assert "goes on from step 6 of 12" in said.err
    assert said.out == "", "what is told of a training goes to standard error"
    whole, broken = load_file(trained[0] / WEIGHTS), load_file(tmp_path / "abc" / WEIGHTS)
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_another_lesson_does_not_take_up_a_broken_run(base, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Told", Stop)
    with pytest.raises(KeyboardInterrupt):
        train_expert(base, ROWS, tmp_path / "abc", lesson=QUICK)
    with pytest.raises(RosterError, match="an interrupted training with another data"):
        train_expert(base, ROWS[:-1], tmp_path / "abc", lesson=QUICK)


def test_it_stops_when_held_out_rows_get_no_better(base, tmp_path):
    slow = Lesson(rank=4, epochs=20, batch_size=4, learning_rate=1e-12, looks=2, patience=2)
    record = train_expert(base, ROWS, tmp_path / "abc", lesson=slow)
    assert record["steps"] < 60


def test_in_bfloat16_the_adapter_itself_is_float32(base, tmp_path):
    train_expert(base, ROWS[:8], tmp_path / "abc", lesson=Lesson(rank=2, epochs=1), dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "abc" / WEIGHTS).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("rows", "lesson", "message"),
    [
        ([*ROWS, Row(prompt="x", answer=None)], {}, "row 25 of the data has no answer to learn"),
        ([Row(prompt="x" * 3000, answer="y")], {}, "the model's context holds"),
        (ROWS, {"targets": ("q_porj",)}, "targets do not fit"),
    ],
)
def test_what_cannot_be_learned_is_refused(rows, lesson, message, base, tmp_path):
    with pytest.raises(RosterError, match=message):
        train_expert(base, rows, tmp_path / "abc", lesson=Lesson(**lesson))
    assert not list(tmp_path.iterdir())
