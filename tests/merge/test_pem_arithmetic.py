"""PEM arithmetic on PEFT's own folders: against PEFT's merging of adapters, and for what PEFT loads again."""

import json
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from cli.conftest import refuse, succeed
from roster.errors import RosterNote
from roster.merge import merge_tensors

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}
IA3 = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}


def adapters(folder, kind=peft.LoraConfig, options=None, count=3, together=True):
    """Folders t0, t1, ... of adapters that PEFT wrote; their A's near one another, or independent."""
    torch.manual_seed(0)
    model = peft.get_peft_model(tiny.base(), kind(**(options or LORA)), adapter_name="t0")
    for i in range(1, count):
        model.add_adapter(f"t{i}", kind(**(options or LORA)))
    first = {}
    with torch.no_grad():
        for name, each in model.named_parameters():
            key = name.replace(".t0.", ".").replace(".t1.", ".").replace(".t2.", ".")
            if "lora_A" in name and together:
                each.copy_(first.setdefault(key, each.clone()) + 0.05 * torch.randn(each.shape) * each.std())
            elif "lora_B" in name or "ia3_l" in name:
                each.add_(0.3 * torch.randn(each.shape))
    for i in range(count):
        model.save_pretrained(folder, selected_adapters=[f"t{i}"])
    return model


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


def merge(*arguments, count=2, out="merged"):
    names = [word for i in range(count) for word in ("--model", f"t{i}")]
    return succeed("merge", "--method", "pem-arithmetic", *names, *arguments, "--out", out)


def deltas(model, name):
    model.set_adapter(name)
    found = {}
    for key, module in model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            found[key] = module.get_delta_weight(name).detach()
    return found


def test_addition_is_of_a_and_b_apart_and_peft_reads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = adapters(tmp_path)
    merge("--option", "weight=[0.3, 0.7]")
    one, other, found = (tensors(tmp_path / each) for each in ("t0", "t1", "merged"))
    for name, each in found.items():
        torch.testing.assert_close(each, 0.3 * one[name] + 0.7 * other[name])
    model.load_adapter(tmp_path / "merged", "merged")
    updates = [deltas(model, each) for each in ("t0", "t1", "merged")]
    for name, each in updates[2].items():
        A = [0.3 * m.lora_A["t0"].weight + 0.7 * m.lora_A["t1"].weight for n, m in model.named_modules() if n == name]
        B = [0.3 * m.lora_B["t0"].weight + 0.7 * m.lora_B["t1"].weight for n, m in model.named_modules() if n == name]
        torch.testing.assert_close(each, 2 * B[0] @ A[0], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(each, 0.3 * updates[0][name] + 0.7 * updates[1][name], atol=1e-3)
    assert not list((tmp_path / "merged").glob("model*"))


def test_it_is_pefts_linear_up_to_a_square_root(tmp_path, monkeypatch):
    """PEFT multiplies A and B by sqrt(weight) each; so roots of its weights give its update, its weights another."""
    monkeypatch.chdir(tmp_path)
    model = adapters(tmp_path)
    weights = [0.3, 0.7]
    model.add_weighted_adapter(["t0", "t1"], weights, "theirs", combination_type="linear")
    wanted = deltas(model, "theirs")
    roots = [each**0.5 for each in weights]
    for values, same in ((roots, True), (weights, False)):
        merge("--option", f"weight={json.dumps(values)}", "--overwrite", out=f"merged{same}")
        model.load_adapter(tmp_path / f"merged{same}", f"merged{same}")
        for name, each in deltas(model, f"merged{same}").items():
            assert torch.allclose(each, wanted[name], rtol=1e-4, atol=1e-6) == same


def test_negation_turns_b_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = adapters(tmp_path)
    merge("--option", "weight=-1", "--option", "lambda=0.5", count=1)
    one, found = tensors(tmp_path / "t0"), tensors(tmp_path / "merged")
    for name, each in found.items():
        torch.testing.assert_close(each, one[name] * (1 if "lora_A" in name else -0.5))
    model.load_adapter(tmp_path / "merged", "merged")
    own = deltas(model, "t0")
    for name, each in deltas(model, "merged").items():
        torch.testing.assert_close(each, -0.5 * own[name])


def test_analogy_is_the_first_plus_what_the_second_has_over_the_third(tmp_path, monkeypatch):
    """The authors' sums: A = w A1 + (1-w) A2 + (1-w) A3, B = w B1 + (1-w) B2 - (1-w) B3."""
    monkeypatch.chdir(tmp_path)
    adapters(tmp_path)
    merge("--option", "weight=[0.6, 0.4, -0.4]", count=3)
    one, two, three, found = (tensors(tmp_path / each) for each in ("t0", "t1", "t2", "merged"))
    for name, each in found.items():
        sign = 1 if "lora_A" in name else -1
        torch.testing.assert_close(each, 0.6 * one[name] + 0.4 * two[name] + sign * 0.4 * three[name])


def test_ia3(tmp_path, monkeypatch):
    """Addition as PEFT's; negation as 2 - v; the analogy as the authors write it."""
    monkeypatch.chdir(tmp_path)
    model = adapters(tmp_path, peft.IA3Config, IA3)
    merge("--option", "weight=[0.3, 0.7]")
    model.add_weighted_adapter(["t0", "t1"], [0.3, 0.7], "theirs")
    model.save_pretrained(tmp_path / "peft", selected_adapters=["theirs"])
    wanted = tensors(tmp_path / "peft" / "theirs")
    assert wanted
    for name, each in tensors(tmp_path / "merged").items():
        torch.testing.assert_close(each, wanted[name])
    merge("--option", "weight=-1", count=1, out="negated")
    merge("--option", "weight=[0.6, 0.4, -0.4]", count=3, out="analogy")
    one, two, three = (tensors(tmp_path / each) for each in ("t0", "t1", "t2"))
    for name, each in tensors(tmp_path / "negated").items():
        torch.testing.assert_close(each, 2 - one[name])
    for name, each in tensors(tmp_path / "analogy").items():
        torch.testing.assert_close(each, 0.4 + 0.6 * one[name] + 0.4 * two[name] - 0.4 * three[name])
    model.load_adapter(tmp_path / "negated", "negated")


def test_in_memory_by_the_tensors_name():
    pair = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])]
    for name, wanted in (("q.lora_A.weight", [7.0, 12.0]), ("q.lora_B.weight", [-5.0, -8.0])):
        found = merge_tensors("pem-arithmetic", pair, name=name, weight=[1, -2])
        torch.testing.assert_close(found, torch.tensor(wanted))


def test_adapters_of_different_starts_get_a_note(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapters(tmp_path / "apart", together=False)
    adapters(tmp_path / "near")
    monkeypatch.chdir(tmp_path / "apart")
    with pytest.warns(RosterNote, match="not trained from one A"):
        merge("--option", "weight=0.5")
    monkeypatch.chdir(tmp_path / "near")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge("--option", "weight=0.5")


def test_what_cannot_be_added_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapters(tmp_path)
    command = ["merge", "--method", "pem-arithmetic", "--model", "t0", "--model", "t1", "--option", "weight=1"]
    command += ["--out", "merged"]
    config = json.loads((tmp_path / "t1" / "adapter_config.json").read_text())
    (tmp_path / "t1" / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 16}))
    assert "lora_alpha is 8 in 't0' and 16 in 't1'" in refuse(*command)
    (tmp_path / "t1" / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    assert "use_dora" in refuse(*command)
    (tmp_path / "t1" / "adapter_config.json").write_text(json.dumps(config))
    some = dict(list(tensors(tmp_path / "t1").items())[1:])
    save_file(some, tmp_path / "t1" / "adapter_model.safetensors")
    assert "and 't1' has not" in refuse(*command)
    assert "neither a base nor slices" in refuse(*command, "--base", "t0")
    assert "is not an adapter" in refuse(*command[:3], "--model", "pocket", *command[7:])
    assert not list(tmp_path.glob("*merged*"))
