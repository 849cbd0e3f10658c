"""DoRA adapters are read as PEFT computes them: in a mixture, on a base for a while, merged, written."""

from itertools import pairwise

import peft
import pytest
import torch
from safetensors.torch import load_file

import tiny
from library import saved
from roster import RosterError
from roster.adapters.attach import attach
from roster.adapters.reading import load
from roster.adapters.writing import save
from roster.experts import RescaledExperts
from roster.library import Library, check_fits, cluster, read_adapter, write_adapter
from roster.library.adapter import Magnitude
from roster.library.wearing import wearing
from roster.merge.adapters import concatenate
from roster.merge.opening import open_model
from roster.recipes import RECIPES
from roster.shelf.contents import read_contents

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
NAMES = ["a dora", "a lora", "another dora"]


def save_dora(folder, architecture="llama", seed=0, **config):
    """A DoRA whose magnitudes are not those that it started with; returns PEFT's model."""
    model = saved.peft_model(tiny.base(architecture), use_dora=True, **config)
    generator = torch.Generator().manual_seed(100 + seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter * (1 + 0.3 * noise) if "magnitude" in name else noise * 0.1
    model.save_pretrained(folder)
    return model


@pytest.fixture
def folder(tmp_path):
    """Two DoRAs and a plain LoRA between them; one DoRA updates other layers, too."""
    save_dora(tmp_path / "library" / NAMES[0])
    saved.save(tmp_path / "library" / NAMES[1], target_modules=["q_proj", "down_proj"], r=3)
    save_dora(tmp_path / "library" / NAMES[2], seed=1, target_modules=["q_proj", "v_proj", "up_proj"], r=2)
    return tmp_path / "library"


def routed(folder, slug, **options):
    library = Library.read(folder)
    return attach(tiny.base(), library, RECIPES[slug](options), recipe=slug, options=options).eval()


def logits(model, **given):
    ids = torch.stack(tiny.tokens(6, 6, 6, seed=5))
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **given).logits


def of_peft(folder, name, architecture="llama"):
    return peft.PeftModel.from_pretrained(tiny.base(architecture), str(folder / name)).eval()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi"])  # plain, Conv1D with bias, linear with bias
def test_dora_on_its_base_is_pefts(architecture, tmp_path):
    targets = {"gpt2": ["c_attn", "c_fc"], "phi": ["q_proj", "fc1"]}.get(architecture, ["q_proj", "v_proj"])
    fan = {"fan_in_fan_out": True} if architecture == "gpt2" else {}
    model = save_dora(tmp_path / "one", architecture, target_modules=targets, **fan)
    adapter, base = read_adapter(tmp_path / "one"), tiny.base(architecture)
    for name, module in base.named_modules():  # biases that are not zero, as they start
        if name in adapter.modules and getattr(module, "bias", None) is not None:
            module.bias.data += 0.1
            model.base_model.model.get_submodule(name).base_layer.bias.data += 0.1
    check_fits(adapter, base)
    expected = logits(model)
    with wearing(base, adapter):
        torch.testing.assert_close(logits(base), expected, **CLOSE)
    assert (logits(base) - expected).abs().max() > 1e-2
    attached = attach(base, Library({"one": adapter}), RECIPES["uniform"](None), recipe="uniform").eval()
    torch.testing.assert_close(logits(attached), expected, **CLOSE)


def test_each_row_its_own_kind(folder):
    """One batch, three experts of two kinds, and the base."""
    model = routed(folder, "named")
    wanted = [NAMES[2], NAMES[0], NAMES[1]]
    expected = torch.cat([logits(of_peft(folder, name))[row : row + 1] for row, name in enumerate(wanted)])
    torch.testing.assert_close(logits(model, task_ids=model.task_ids(wanted)), expected, **CLOSE)
    plain = logits(model, task_ids=model.task_ids([None, NAMES[1], None]))
    torch.testing.assert_close(plain[[0, 2]], logits(tiny.base())[[0, 2]], **CLOSE)
    assert any(isinstance(module, RescaledExperts) for module in model.modules())


def test_a_mixture_of_them_is_the_weighted_sum_of_what_they_change(folder):
    """Per layer: the sum of g_e times what PEFT's layer e adds to the base's output."""
    weights = [0.5, 0.2, 0.3]
    model = routed(folder, "uniform", weights=weights)
    name, x = "model.layers.1.self_attn.q_proj", torch.randn(5, 32)
    seen = {}
    with torch.no_grad():
        base = tiny.base().get_submodule(name)(x)
        total = base.clone()
        for weight, each in zip(weights, NAMES, strict=True):
            total += weight * (of_peft(folder, each).base_model.model.get_submodule(name)(x) - base)

        def catch(module, args, output):
            seen["y"] = module.get_submodule("roster").forward(x[None], base[None].clone())

        model.get_submodule(name).register_forward_hook(catch)
        model(input_ids=torch.stack(tiny.tokens(5, seed=1)), use_cache=False)
    torch.testing.assert_close(seen["y"][0], total, **CLOSE)


@pytest.mark.parametrize("slug", sorted(slug for slug, recipe in RECIPES.items() if recipe.kind == "mixture"))
def test_every_recipe_takes_them_or_says_why_not(slug, folder):
    recipe = RECIPES[slug]
    try:
        mixing = recipe(None)
    except RosterError:
        pytest.skip("needs options")
    needs_more = set(recipe.needs) & {"examples", "descriptions", "gates", "data"}
    if not mixing.causal:
        pytest.skip("for encoders")
    adds_up = mixing.experts is None and mixing.average == "updates" and "experts" not in mixing.trains
    if not adds_up:
        with pytest.raises(RosterError, match=r"plain LoRAs|it is for encoders"):
            attach(tiny.base(), Library.read(folder), mixing, recipe=slug)
    elif not needs_more:
        model = attach(tiny.base(), Library.read(folder), mixing, recipe=slug, prepare=False)
        assert any(isinstance(module, RescaledExperts) for module in model.modules())


def test_a_saved_mixture_holds_the_adapters_as_they_were(folder, tmp_path):
    model = routed(folder, "named")
    save(model, tmp_path / "saved")
    again = load(tmp_path / "saved").eval()
    for name in NAMES:
        there = read_adapter(tmp_path / "saved" / "experts" / name)
        assert there.weights_hash == read_adapter(folder / name).weights_hash
    wanted = [NAMES[0], NAMES[2], NAMES[1]]
    ours, theirs = (logits(each, task_ids=each.task_ids(wanted)) for each in (model, again))
    assert torch.equal(ours, theirs)


def test_written_again_it_is_the_same_to_peft(folder, tmp_path):
    adapter = read_adapter(folder / NAMES[0])
    assert all(isinstance(update, Magnitude) for update in adapter.modules.values())
    path = write_adapter(tmp_path / "written", adapter)
    assert (
        load_file(path / "adapter_model.safetensors").keys()
        == load_file(folder / NAMES[0] / "adapter_model.safetensors").keys()
    )
    torch.testing.assert_close(logits(of_peft(path.parent, path.name)), logits(of_peft(folder, NAMES[0])), **CLOSE)
    half = read_adapter(write_adapter(tmp_path / "half", adapter, dtype=torch.bfloat16))
    assert next(iter(half.modules.values())).magnitude_O.dtype == torch.bfloat16


def test_headers_tell_the_kind(folder):
    assert [read_contents(folder / name, name).kind for name in NAMES] == ["DORA", "LORA", "DORA"]


def test_what_compares_or_merges_factors_refuses_them(folder):
    library = Library.read(folder)
    with pytest.raises(RosterError, match="comparing adapters by their weights reads updates of the form B A"):
        cluster(library, 2)
    update = next(iter(library[NAMES[0]].modules.values()))
    with pytest.raises(RosterError, match="merging adapters into one"):
        concatenate([update], [1.0])
    with pytest.raises(RosterError, match="are DoRAs"):
        routed(folder, "uniform").merge()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(next(k for k in t if "magnitude" in k)), r"needs a magnitude \[\d+\], not none"),
        (
            lambda t: t.update({k: v[1:] for k, v in t.items() if "magnitude" in k}),
            r"needs a magnitude \[\d+\], not \[",
        ),
        (lambda t: t.update({k: v * torch.nan for k, v in t.items() if "magnitude" in k}), "not finite"),
        (lambda t: t.update({"base_model.model.other.lora_magnitude_vector": torch.ones(3)}), "no lora_A and lora_B"),
    ],
)
def test_damaged_doras(edit, message, folder):
    saved.edit_tensors(folder / NAMES[0], edit)
    with pytest.raises(RosterError, match=message):
        read_adapter(folder / NAMES[0])


def test_a_magnitude_that_the_config_does_not_know_of(folder):
    saved.edit_config(folder / NAMES[0], use_dora=False)
    with pytest.raises(RosterError, match="use_dora is not set"):
        read_adapter(folder / NAMES[0])


def test_a_checkpoint_with_a_dora_is_what_peft_merges(folder, tmp_path):
    """Read whole, and in pieces that begin and end within rows."""
    tiny.base().save_pretrained(tmp_path / "base")
    source = open_model(f"{tmp_path / 'base'}+{folder / NAMES[0]}")
    expected = of_peft(folder, NAMES[0]).merge_and_unload().state_dict()
    changed = 0
    for name, spec in source.specs.items():
        found = source.read(name, 0, spec.numel)
        torch.testing.assert_close(found.view(spec.shape), expected[name], atol=1e-6, rtol=1e-5)
        changed += found.dtype == torch.float32 and not torch.equal(found, tiny.base().state_dict()[name].flatten())
        at = [0, spec.numel // 3 + 1, spec.numel // 3 + 2, spec.numel]
        pieces = [source.read(name, start, stop) for start, stop in pairwise(at)]
        torch.testing.assert_close(torch.cat(pieces), found, atol=0, rtol=0)
    assert changed == len(read_adapter(folder / NAMES[0]).modules)
