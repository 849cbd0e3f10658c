"""`roster train moe` over several processes: what they train together is what one process trains."""

import json
from importlib import import_module

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

import tiny
from roster import RosterError
from roster.train import Blocks, Settings, train_moe
from roster.train.trainer import last_checkpoint
from together import together

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests processes on CPUs; a GPU would be taken by each"),
]
QUICK = Settings(steps=6, batch_size=4, save_every=3, learning_rate=1e-2, progress=False)
SWITCH = Blocks("switch-transformer", {"num_experts": 4, "balance": 0.1})


class Interrupt(Exception):
    pass


def train(folder, out, **others):
    return train_moe(folder / "base", folder / "rows.jsonl", folder / out, blocks=SWITCH, settings=QUICK, **others)


def work(rank, world, folder):
    fit = import_module("roster.train.fit")
    if world == 2:
        whole = train(folder, "experts", how="experts")
        copies = train(folder, "copies", how="copies")
        if rank == 0:
            losses = {"experts": whole["losses"], "copies": copies["losses"]}
            (folder / "losses.json").write_text(json.dumps(losses))
        with pytest.raises(RosterError, match="does not divide among 2 processes"):
            train_moe(
                folder / "base", folder / "rows.jsonl", folder / "odd", blocks=SWITCH, settings=Settings(batch_size=3),
                how="experts",
            )  # fmt: skip
        with pytest.raises(RosterError, match="say how the model is spread"):
            train(folder, "untold")
        plain = fit.Advance

        class Stop(plain):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == 5:
                    raise Interrupt

        fit.Advance = Stop
        with pytest.raises(Interrupt):
            train(folder, "broken", how="experts")
        fit.Advance = plain
        distributed.barrier()
        assert not (folder / "broken").exists()
        assert last_checkpoint(folder / "broken.training").name == "checkpoint-3"
    else:
        train(folder, "broken", how="experts")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spread")
    tiny.chat_base().save_pretrained(folder / "base")
    tiny.chat_tokenizer().save_pretrained(folder / "base")
    lines = [json.dumps({"prompt": f"say {n % 5}" + "!" * (n % 3), "answer": "abc"}) for n in range(24)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    together("train.test_train_spread", "work", folder, 2, 4)
    train(folder, "one")
    return folder


@pytest.mark.parametrize("many", ["experts", "copies", "broken"])
def test_they_train_what_one_process_does(many, folder):
    """`broken` was begun by two processes, broken off after a checkpoint, and finished by four."""
    one, found = load_file(folder / "one" / "model.safetensors"), load_file(folder / many / "model.safetensors")
    assert one.keys() == found.keys(), "tied weights are stored once"
    for name, tensor in one.items():
        # Adam divides round-off by itself where gradients are next to nothing.
        torch.testing.assert_close(found[name], tensor, atol=2e-3, rtol=0.0, msg=name)
        assert (found[name] - tensor).abs().mean() < 2e-5, name
    assert not (folder / f"{many}.training").exists()


@pytest.mark.parametrize("many", ["experts", "copies"])
def test_their_losses_are_those_of_one_process(many, folder, tmp_path):
    record = train_moe(folder / "base", folder / "rows.jsonl", tmp_path / "one", blocks=SWITCH, settings=QUICK)
    losses = json.loads((folder / "losses.json").read_text())[many]
    assert list(losses.values()) == pytest.approx(list(record["losses"].values()), abs=2e-4)
