"""`roster train moe`: what is learned, that a broken run ends as an unbroken one, and what is refused before work."""

import json
from importlib import import_module

import pytest
import torch

import roster
import tiny
from roster import RosterError
from roster.moe.replacing import routed_blocks
from roster.train import Blocks, Settings, train_moe
from roster.train.trainer import last_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*")
QUICK = Settings(steps=6, batch_size=4, save_every=3, learning_rate=1e-2, progress=False)
SWITCH = Blocks("switch-transformer", {"num_experts": 4})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.chat_base().save_pretrained(folder)
    tiny.chat_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"say {n % 5}", "answer": "abc"}) + "\n" for n in range(24)))
    return path


@pytest.fixture(scope="module")
def trained(base, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "sparse"
    return out, train_moe(base, data, out, blocks=SWITCH, settings=QUICK)


def test_a_dense_model_becomes_a_trained_mixture(trained, base, data):
    out, record = trained
    model = roster.load(out)
    assert model.roster.recipe == "switch-transformer"
    assert len(routed_blocks(model)) == 2
    assert record["lessons"] == 24
    losses = list(record["losses"].values())
    assert losses[-1] < losses[0]
    assert not out.with_name("sparse.training").exists()
    for name, _ in model.named_parameters():
        assert "mlp.gate_proj" not in name
    ids = model.inputs("say 3")
    told = model.generate(**ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert told.shape[1] > ids["input_ids"].shape[1]


def test_a_routed_folder_goes_on(trained, data, tmp_path):
    out, record = trained
    again = train_moe(out, data, tmp_path / "on", settings=QUICK)
    assert list(again["losses"].values())[-1] < list(record["losses"].values())[-1]
    before, after = roster.load(out).state_dict(), roster.load(tmp_path / "on").state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(".router." in name for name in changed)
    assert any(".experts." in name for name in changed)


def test_an_interrupted_run_ends_where_an_unbroken_one_does(trained, base, data, tmp_path, monkeypatch):
    fit = import_module("roster.train.fit")  # the name in the package is the function's

    class Interrupt(Exception):
        pass

    class Stop(fit.Advance):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "Advance", Stop)
        with pytest.raises(Interrupt):
            train_moe(base, data, tmp_path / "sparse", blocks=SWITCH, settings=QUICK)
    assert not (tmp_path / "sparse").exists()
    assert last_checkpoint(tmp_path / "sparse.training").name == "checkpoint-3"
    with pytest.raises(RosterError, match="interrupted training with another blocks"):
        train_moe(base, data, tmp_path / "sparse", blocks=Blocks("gshard-top2"), settings=QUICK)
    train_moe(base, data, tmp_path / "sparse", blocks=SWITCH, settings=QUICK)
    whole, resumed = roster.load(trained[0]).state_dict(), roster.load(tmp_path / "sparse").state_dict()
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.parametrize("lines", ['{"text": "abc abc abc abc"}\n{"text": "cab"}\n', "abc abc abc abc\n\ncab\n"])
def test_texts_are_cut_into_pieces(lines, base, tmp_path):
    path = tmp_path / ("texts.jsonl" if lines.startswith("{") else "texts.txt")
    path.write_text(lines)
    settings = Settings(steps=1, batch_size=2, progress=False)
    record = train_moe(base, path, tmp_path / "out", blocks=SWITCH, settings=settings, length=6)
    tokenizer = tiny.chat_tokenizer()
    texts = [json.loads(each)["text"] for each in lines.splitlines()] if lines.startswith("{") else [lines]
    tokens = sum(len(tokenizer(each, add_special_tokens=False)["input_ids"]) + 1 for each in texts)
    assert record["lessons"] == tokens // 6 + (tokens % 6 > 1)


@pytest.mark.parametrize(
    ("lines", "length", "message"),
    [
        ('{"text": "abc"}\n{"prompt": "a", "answer": "b"}', 8, "line 2: the first line has text alone"),
        ('{"prompt": "a", "answer": "b"}\n{"text": "abc"}', 8, "line 2: unknown field 'text'"),
        ('{"text": "abc"}', 4096, "the model's context holds"),
        ('{"text": "abc"', 8, "line 1: not JSON"),
    ],
)
def test_malformed_data_are_named(lines, length, message, base, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(lines)
    with pytest.raises(RosterError, match=message):
        train_moe(base, path, tmp_path / "out", blocks=SWITCH, settings=QUICK, length=length)
    assert not (tmp_path / "out.training").exists()


def test_what_does_not_go_together_is_refused(trained, base, data, tmp_path):
    out, _ = trained
    with pytest.raises(RosterError, match="is a dense model: name the recipe"):
        train_moe(base, data, tmp_path / "out", settings=QUICK)
    with pytest.raises(RosterError, match="routed blocks already"):
        train_moe(out, data, tmp_path / "out", blocks=SWITCH, settings=QUICK)
    with pytest.raises(RosterError, match="learns by task"):
        train_moe(base, data, tmp_path / "out", blocks=Blocks("task-moe", tasks=("a", "b")), settings=QUICK)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    with pytest.raises(RosterError, match="not empty and not a mixture"):
        train_moe(base, data, tmp_path / "full", blocks=SWITCH, settings=QUICK)
