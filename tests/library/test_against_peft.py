"""What is read is what PEFT computes; what is written, PEFT reads as the same function."""

import peft
import pytest
import torch
from torch import nn

import tiny
from library import saved
from roster.library import LowRank, check_fits, make_adapter, read_adapter, write_adapter

REGEX = r".*layers\.1\.(self_attn\.[qk]_proj|mlp\.down_proj)"
PATTERNS = {"rank_pattern": {r"layers\.0\..*q_proj": 2, "v_proj": 6}, "alpha_pattern": {"v_proj": 3, r"1\..*q_proj": 5}}
FORMS = {
    "list": ("llama", {}),
    "full names": ("llama", {"target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"]}),
    "regex": ("llama", {"target_modules": REGEX}),
    "all-linear": ("llama", {"target_modules": "all-linear"}),
    "patterns": ("llama", PATTERNS),
    "some layers": ("llama", {"layers_to_transform": [1]}),
    "layers by pattern": ("llama", {"layers_to_transform": [0], "layers_pattern": "layers"}),
    "excluded": ("llama", {"exclude_modules": r".*layers\.0\..*"}),
    "rsLoRA": ("llama", {"use_rslora": True}),
    "rsLoRA, patterns": ("llama", {"use_rslora": True, **PATTERNS}),
    "GPT-2": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "GPT-2, not told": ("gpt2", {"target_modules": "all-linear"}),
    "default targets": ("llama", {"target_modules": None}),
    "orthogonal": ("llama", {"init_lora_weights": "orthogonal"}),
    "MiCA": ("llama", {"init_lora_weights": "mica"}),
    "task": ("llama", {"task_type": "CAUSAL_LM", "lora_dropout": 0.1}),
}
NAMES = ["0", "self_attn", "with space", "ünïcode", "-x", "q_proj"]


def assert_same_updates(adapter, model, **tolerance):
    expected = saved.deltas(model, model.active_adapter)
    assert adapter.modules.keys() == expected.keys()
    assert expected
    for name, update in adapter.modules.items():
        torch.testing.assert_close(update.scale * update.B_OR @ update.A_RD, expected[name], **tolerance)


@pytest.mark.parametrize("form", FORMS)
def test_updates_are_pefts(form, tmp_path):
    architecture, config = FORMS[form]
    model = saved.save(tmp_path / "one", architecture, **config)
    adapter = read_adapter(tmp_path / "one")
    assert_same_updates(adapter, model)
    check_fits(adapter, tiny.base(architecture))


@pytest.mark.parametrize("form", FORMS)
def test_round_trip(form, tmp_path):
    """Written again, it has the same hash, and PEFT's logits stay the same."""
    architecture, config = FORMS[form]
    model = saved.save(tmp_path / "one", architecture, **config)
    adapter = read_adapter(tmp_path / "one")
    path = write_adapter(tmp_path / "written", adapter)
    assert read_adapter(path).weights_hash == adapter.weights_hash
    again = peft.PeftModel.from_pretrained(tiny.base(architecture), path).eval()
    torch.testing.assert_close(saved.logits(again), saved.logits(model), atol=1e-5, rtol=1e-5)
    assert (saved.logits(again) - saved.logits(tiny.base(architecture))).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_any_name(name, tmp_path):
    """Under its name in PEFT, as a folder's name, and back."""
    model = saved.peft_model(tiny.base(), adapter=name)
    model.save_pretrained(tmp_path)
    adapter = read_adapter(tmp_path / name)
    assert adapter.name == adapter.card.task == name
    assert_same_updates(adapter, model)
    path = write_adapter(tmp_path / "written", adapter)
    assert path.name == read_adapter(path).name == name


def test_names_with_dots(tmp_path):
    """Torch allows none in the names of PEFT's adapters; a folder may have them all the same."""
    model = saved.save(tmp_path / "a.b")
    adapter = read_adapter(write_adapter(tmp_path / "written", read_adapter(tmp_path / "a.b")))
    assert adapter.name == adapter.card.task == "a.b"
    assert_same_updates(adapter, model)


def test_current_folder_has_a_name(adapter_folder, monkeypatch):
    monkeypatch.chdir(adapter_folder)
    adapter = read_adapter(".")
    assert adapter.name == adapter.card.task == "poems"


class Nested(nn.Module):
    """Layers whose names end in one another's: the trap for patterns that match by suffix."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(6, 6)
        self.x = nn.ModuleDict({"proj": nn.Linear(6, 6), "xproj": nn.Linear(6, 6)})
        self.y = nn.ModuleDict({"x": nn.ModuleDict({"proj": nn.Linear(6, 6)})})

    def forward(self, x):
        return self.y["x"]["proj"](self.x["xproj"](self.x["proj"](self.proj(x))))


def test_made_adapter_is_exact_in_peft(tmp_path):
    """Different ranks and scales, names that end in each other's, and a layer that nobody named."""
    torch.manual_seed(0)
    ranks = {"x.proj": (3, 0.1), "proj": (2, 1.7), "y.x.proj": (1, -0.3)}
    modules = {n: LowRank(torch.randn(r, 6), torch.randn(6, r), scale) for n, (r, scale) in ranks.items()}
    adapter = make_adapter("nested", modules, base="")
    base = Nested()
    check_fits(adapter, base)
    path = write_adapter(tmp_path, adapter)
    again = read_adapter(path)
    assert again.weights_hash == adapter.weights_hash
    assert {n: u.scale for n, u in again.modules.items()} == pytest.approx({n: s for n, (_, s) in ranks.items()})
    assert_same_updates(adapter, peft.PeftModel.from_pretrained(base, path), atol=1e-6, rtol=1e-5)


def test_hash_survives_scales_that_alpha_cannot_hold(tmp_path):
    for index in range(40):
        scale = 0.1 + index / 7
        update = LowRank(torch.randn(3, 4), torch.randn(5, 3), scale)
        adapter = make_adapter(str(index), {"layer": update}, base="b")
        assert read_adapter(write_adapter(tmp_path, adapter)).weights_hash == adapter.weights_hash


def test_a_whole_alpha_is_written_as_an_integer(tmp_path):
    adapter = make_adapter("one", {"layer": LowRank(torch.randn(4, 4), torch.randn(5, 4), 2.0)}, base="b")
    text = (write_adapter(tmp_path, adapter) / "adapter_config.json").read_text()
    assert '"lora_alpha": 8,' in text
    assert '"rank_pattern": {}' in text


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning")  # PEFT, about its own conversion
def test_converted_pissa_is_read(tmp_path):
    """PiSSA changes the base; converted by PEFT it is plain LoRA of twice the rank."""
    base = tiny.base()
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj"], init_lora_weights="pissa")
    ).eval()
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.05
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    adapter = read_adapter(tmp_path / "converted")
    assert {u.A_RD.shape[0] for u in adapter.modules.values()} == {8}
    converted = peft.PeftModel.from_pretrained(tiny.base(), tmp_path / "converted").eval()
    torch.testing.assert_close(saved.logits(converted), saved.logits(model), atol=1e-4, rtol=1e-4)
    assert_same_updates(adapter, converted)
