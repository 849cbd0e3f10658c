"""Training: only what the recipe says changes, a broken run ends where an unbroken one does, bad data is refused."""

import json

import pytest
import torch

import roster
import tiny
from roster import RosterError, Router
from roster.adapters.attach import attach
from roster.adapters.mixing import Mixing
from roster.balance import LossFreeBias
from roster.library import Library
from roster.library.gates import GATES, read_gates
from roster.recipes import find
from roster.routed.model import routers
from roster.score import Linear
from roster.select import TopK
from roster.train import Row, Settings, build, fit, read_rows
from roster.train.gates import train_gates
from roster.train.trainer import last_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*")


class Tokenizer(tiny.Tokenizer):
    """The stand-in, with the special tokens that training needs."""

    eos_token_id, pad_token_id = 2, 0

    def __call__(self, text, add_special_tokens=True):
        return super().__call__(text)


ROWS = [Row(prompt=f"{n} {n + 1}", answer=f"{n}", task=f"task {n % 4}") for n in range(48)]
QUICK = Settings(steps=6, batch_size=4, save_every=3, learning_rate=1e-2, progress=False)


def model_for(slug, options=None, folder=None):
    base = tiny.base()
    library = tiny.library(base, folder=folder)
    return attach(base, library, find(slug)(options), recipe=slug, options=options, tokenizer=Tokenizer())


def test_only_the_trained_parts_change(tmp_path):
    model = model_for("x-lora")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    record = fit(model, ROWS, Tokenizer(), tmp_path / "run", QUICK)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"roster.head.weight_NED", "roster.head.bias_NE"}
    assert record["settings"]["steps"] == 6
    assert record["losses"]
    assert not model.training, "the mode is what it was"


def test_training_lowers_the_loss(tmp_path):
    model = model_for("mov-molora")
    settings = Settings(steps=80, batch_size=16, learning_rate=3e-2, progress=False)
    losses = list(fit(model, ROWS, Tokenizer(), tmp_path / "run", settings)["losses"].values())
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("slug", ["x-lora", "mov-molora"])
def test_an_interrupted_run_ends_where_an_unbroken_one_does(slug, tmp_path):
    torch.manual_seed(1)
    whole = model_for(slug)
    fit(whole, ROWS, Tokenizer(), tmp_path / "whole", QUICK)

    class Interrupt(Exception):
        pass

    torch.manual_seed(1)
    broken = model_for(slug)
    steps = 0

    def stop(*_):
        nonlocal steps
        steps += 1
        if steps == 5:
            raise Interrupt

    hook = broken.register_forward_hook(stop)
    with pytest.raises(Interrupt):
        fit(broken, ROWS, Tokenizer(), tmp_path / "broken", QUICK)
    hook.remove()
    torch.manual_seed(99)
    resumed = model_for(slug)
    assert last_checkpoint(tmp_path / "broken").name == "checkpoint-3"
    fit(resumed, ROWS, Tokenizer(), tmp_path / "broken", QUICK)
    state = resumed.state_dict()
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=1e-6, rtol=1e-5, msg=name)


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    for number, files in ((1, ("roster.json", "trainer_state.json")), (2, ("roster.json",)), (10, ())):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        for name in files:
            (folder / name).write_text("{}")
    assert last_checkpoint(tmp_path).name == "checkpoint-1"
    assert last_checkpoint(tmp_path / "nothing") is None


def test_loss_free_bias_moves_once_per_step(tmp_path):
    def router(site):
        return Router(Linear(site.width, site.num_experts), TopK(1), [LossFreeBias(site.num_experts, rate=0.5)])

    base = tiny.base()
    mixing = Mixing(router, at="block", trains=frozenset({"router"}))
    model = attach(base, tiny.library(base), mixing, recipe="uniform")
    fit(model, ROWS, Tokenizer(), tmp_path / "run", QUICK)
    for _, each in routers(model):
        moved = each.balance[0].bias_E / 0.5
        assert torch.equal(moved, moved.round())
        assert moved.abs().max() <= QUICK.steps
        assert moved.abs().sum() > 0


def test_gates_are_trained_one_expert_at_a_time(tmp_path):
    base = tiny.base()
    tiny.library(base, count=2, folder=tmp_path / "experts")
    for path in (tmp_path / "experts").glob(f"*/{GATES}"):
        path.unlink()
    library = Library.read(tmp_path / "experts")
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    records = train_gates(base, library, ROWS, Tokenizer(), tmp_path / "scratch", QUICK)
    assert list(records) == library.names
    for name in library.names:
        gates = read_gates(library[name])
        assert gates.keys() == library[name].modules.keys()
        assert all(gate.abs().sum() > 0 for gate in gates.values())
    after = base.state_dict()
    assert after.keys() == before.keys(), "the base is plain again"
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert train_gates(base, library, ROWS, Tokenizer(), tmp_path / "scratch", QUICK) == {}, "all are there already"
    (tmp_path / "experts" / "expert 0" / GATES).unlink()
    with pytest.raises(RosterError, match="no row of the data names the task"):
        train_gates(base, library, [Row(prompt="a", answer="b")], Tokenizer(), tmp_path / "scratch", QUICK)


def test_recipes_by_task_need_tasks_in_the_data(tmp_path):
    model = model_for("polytropon")
    with pytest.raises(RosterError, match="learns by task"):
        fit(model, [Row(prompt="a", answer="b")], Tokenizer(), tmp_path, QUICK)
    with pytest.raises(RosterError, match="nothing to train"):
        fit(model_for("uniform"), ROWS, Tokenizer(), tmp_path, QUICK)


def test_a_row_that_is_too_long_is_named(tmp_path):
    rows = [*ROWS, Row(prompt="x" * 70, answer="y")]
    with pytest.raises(RosterError, match=r"row 49 .* 72 tokens; the model's context holds 64"):
        fit(model_for("x-lora"), rows, Tokenizer(), tmp_path, QUICK)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "answer": "b"', "line 2: not JSON"),
        ('["a", "b"]', "line 2: must be an object"),
        ('{"prompt": "a", "answr": "b"}', "line 2: unknown field 'answr': did you mean 'answer'"),
        ('{"prompt": "a"}', "line 2: answer: Field required"),
        ('{"prompt": "", "answer": "b"}', "line 2: prompt: String should have at least 1"),
        ('{"prompt": "a", "answer": 3}', "line 2: answer: Input should be a valid string"),
    ],
)
def test_malformed_lines_are_named_by_number(line, message, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"prompt": "a", "answer": "b"}) + "\n" + line + "\n")
    with pytest.raises(RosterError, match=message):
        read_rows(path)


def test_data_files_that_hold_nothing(tmp_path):
    with pytest.raises(RosterError, match="no data file"):
        read_rows(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(RosterError, match="holds no rows"):
        read_rows(tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RosterError, match="not UTF-8"):
        read_rows(tmp_path / "binary.jsonl")


def test_build_refuses_before_it_starts(tmp_path):
    base = tiny.base()
    base.save_pretrained(tmp_path / "base")
    tiny.library(base, folder=tmp_path / "experts")
    arguments = {"base": tmp_path / "base", "experts": tmp_path / "experts", "out": tmp_path / "out"}
    with pytest.raises(RosterError, match="unknown router 'arow-mbc': did you mean 'arrow-mbc'"):
        build(router="arow-mbc", **arguments)
    with pytest.raises(RosterError, match="give it data"):
        build(router="x-lora", **arguments)
    with pytest.raises(RosterError, match="no use for data"):
        build(router="arrow-mbc", rows=ROWS, **arguments)
    with pytest.raises(RosterError, match="no option 'topk': did you mean 'top_k'"):
        build(router="arrow-mbc", options={"topk": 1}, **arguments)
    assert not (tmp_path / "out").exists()
    build(router="arrow-mbc", options={"top_k": 1}, **arguments)
    model = roster.load(tmp_path / "out")
    assert model.roster.options == {"top_k": 1}
    assert (tmp_path / "out" / "base" / "config.json").exists(), "a base without a public name travels along"


def test_settings_are_checked():
    for bad in ({"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}):
        with pytest.raises(RosterError):
            Settings(**bad)
