"""AdaLoRA folders of PEFT, ranks pruned by its own training, read as LoRA: the same function, and written as such."""

import json

import peft
import pytest
import torch

import tiny
from roster import RosterError
from roster.adapters.attach import attach
from roster.library import Library, read_adapter, write_adapter
from roster.recipes import find

pytestmark = [
    # PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:peft"),
]
IDS = torch.stack(tiny.tokens(6, 6, seed=2))


def logits(model, **given):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False, **given).logits


@pytest.fixture
def theirs(tmp_path):
    """An AdaLoRA whose ranks PEFT has taken away step by step; saved."""
    torch.manual_seed(0)
    config = peft.AdaLoraConfig(
        init_r=6, target_r=3, tinit=0, tfinal=1, deltaT=1, total_step=5, lora_alpha=16,
        target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(tiny.base(), config)
    for name, parameter in model.named_parameters():
        if "lora_E" in name or "lora_B" in name:
            parameter.data.normal_()
    model.train()
    for step in range(1, 6):
        model(input_ids=IDS, labels=IDS).loss.backward()
        model.base_model.update_and_allocate(step)
        model.zero_grad()
    model.save_pretrained(str(tmp_path / "ada"))
    return model.eval()


def test_it_is_the_same_function(theirs, tmp_path):
    adapter = read_adapter(tmp_path / "ada")
    ranks = {update.A_RD.shape[0] for update in adapter.modules.values()}
    assert len(ranks) > 1
    ours = attach(tiny.base(), Library({"ada": adapter}), find("named")(), recipe="named").eval()
    expected = logits(theirs)
    found = logits(ours, task_ids=ours.task_ids(["ada", "ada"]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (expected - logits(tiny.base())).abs().max() > 0.1


def test_it_is_written_as_a_lora_that_peft_reads(theirs, tmp_path):
    path = write_adapter(tmp_path / "written", read_adapter(tmp_path / "ada"))
    assert json.loads((path / "adapter_config.json").read_text())["peft_type"] == "LORA"
    plain = peft.PeftModel.from_pretrained(tiny.base(), str(path)).eval()
    torch.testing.assert_close(logits(plain), logits(theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"init_r": 0}, "init_r=0"),
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "LORA"}, "neither lora_A nor lora_B"),
    ],
)
def test_what_does_not_fit_is_refused(theirs, tmp_path, change, says):
    file = tmp_path / "ada" / "adapter_config.json"
    config = json.loads(file.read_text())
    if "peft_type" in change:
        config = {k: v for k, v in config.items() if k in {"target_modules", "base_model_name_or_path"}}
    file.write_text(json.dumps({**config, **change}))
    with pytest.raises(RosterError, match=says):
        read_adapter(tmp_path / "ada")
