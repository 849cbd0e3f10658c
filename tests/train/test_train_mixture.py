"""`roster train mixture`: exactly the asked part of a plain mixture is trained, to the same bits after a break."""

import json
from importlib import import_module

import pytest
import torch
import transformers
from safetensors.torch import load_file

import tiny
from roster import RosterError
from roster.convert.fitting import FLAT
from roster.train import Settings, train_mixture
from roster.train.mixture import PART, routers
from roster.train.trainer import last_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*", "ignore:.*is_gradient_checkpointing.*:FutureWarning")
QUICK = Settings(steps=6, batch_size=4, save_every=3, learning_rate=1e-2, progress=False)


def write(folder, scale=1.0, dtype=torch.float32):
    tokenizer = tiny.chat_tokenizer()
    config = transformers.MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=128,
        router_aux_loss_coef=0.02, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.2)
    for _, each in routers(model):
        each.data.mul_(scale)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write(tmp_path_factory.mktemp("mixture"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"say {n % 5}", "answer": "abc"}) + "\n" for n in range(24)))
    return path


def state(folder):
    return load_file(folder / "model.safetensors")


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("part", ["router", "lora", "all"])
def test_exactly_the_asked_part_is_trained_and_the_loss_falls(part, base, data, tmp_path):
    record = train_mixture(base, data, tmp_path / "out", part=part, settings=QUICK)
    losses = list(record["losses"].values())
    assert losses[-1] < losses[0]
    assert not (tmp_path / "out.training").exists()
    before, after = state(base), state(tmp_path / "out")
    moved = changed(before, after)
    gates = {name for name in before if name.endswith(".gate.weight")}
    assert gates
    if part == "router":
        assert moved == gates
        assert record["trained"] == sum(before[name].numel() for name in gates)
    elif part == "lora":
        assert moved == {name for name in before if "_proj" in name}
    else:
        assert moved == set(before)
    assert not transformers.AutoConfig.from_pretrained(tmp_path / "out").output_router_logits
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("part", ["router", "lora"])
def test_a_broken_run_ends_where_an_unbroken_one_does(part, base, data, tmp_path, monkeypatch):
    fit = import_module("roster.train.fit")

    class Interrupt(Exception):
        pass

    class Stop(fit.Advance):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "Advance", Stop)
        with pytest.raises(Interrupt):
            train_mixture(base, data, tmp_path / "out", part=part, settings=QUICK)
    assert not (tmp_path / "out").exists()
    checkpoint = last_checkpoint(tmp_path / "out.training", PART)
    assert checkpoint.name == "checkpoint-3"
    assert (checkpoint / PART).stat().st_size < (base / "model.safetensors").stat().st_size / 2
    with pytest.raises(RosterError, match="interrupted training with another"):
        train_mixture(base, data, tmp_path / "out", part="all", settings=QUICK)
    train_mixture(base, data, tmp_path / "out", part=part, settings=QUICK)
    train_mixture(base, data, tmp_path / "whole", part=part, settings=QUICK)
    assert not changed(state(tmp_path / "whole"), state(tmp_path / "out"))


def test_the_balance_loss_is_the_models_own(base, data, tmp_path):
    """Without it the first loss is lower by the coefficient times the model's auxiliary loss."""
    config = json.loads((base / "config.json").read_text())
    other = write(tmp_path / "other")
    (other / "config.json").write_text(json.dumps({**config, "router_aux_loss_coef": 0.0}))
    quick = Settings(steps=1, batch_size=4, learning_rate=1e-3, progress=False)
    first = train_mixture(base, data, tmp_path / "a", settings=quick)["losses"][1]
    without = train_mixture(other, data, tmp_path / "b", settings=quick)["losses"][1]
    assert 0.5 * 0.02 < first - without < 8 * 0.02


def test_the_type_of_the_weights_stays(data, tmp_path):
    half = write(tmp_path / "half", dtype=torch.bfloat16)
    train_mixture(half, data, tmp_path / "out", settings=QUICK)
    assert {each.dtype for each in state(tmp_path / "out").values()} == {torch.bfloat16}


def test_flat_routers_are_sharpened_or_refused(data, tmp_path):
    flat = write(tmp_path / "flat", scale=FLAT)
    with pytest.raises(RosterError, match=r"made flat.*--sharpen"):
        train_mixture(flat, data, tmp_path / "out", settings=QUICK)
    train_mixture(flat, data, tmp_path / "out", settings=QUICK, sharpen=True)
    name = "model.layers.0.block_sparse_moe.gate.weight"
    assert 0.05 < state(tmp_path / "out")[name].std() < 1
    with pytest.raises(RosterError, match="not flat"):
        train_mixture(tmp_path / "out", data, tmp_path / "again", settings=QUICK, sharpen=True)


def test_a_dense_model_is_refused(data, tmp_path):
    tiny.chat_base().save_pretrained(tmp_path / "dense")
    tiny.chat_tokenizer().save_pretrained(tmp_path / "dense")
    with pytest.raises(RosterError, match="no mixture"):
        train_mixture(tmp_path / "dense", data, tmp_path / "out", settings=QUICK)
