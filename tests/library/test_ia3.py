"""(IA)3 adapters are read as PEFT computes them: in a mixture, on a base for a while, written; refused where they mean
nothing."""

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
from roster.library import Library, check_fits, cluster, make_adapter, read_adapter, write_adapter
from roster.library.adapter import Vector
from roster.library.wearing import wearing
from roster.recipes import RECIPES
from roster.shelf.contents import read_contents

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
NAMES = ["a lora", "an ia3", "another ia3"]
# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = pytest.mark.filterwarnings(*saved.PEFT_WARNINGS)


def save_ia3(folder, architecture="llama", seed=0, **config):
    """Vectors that are not ones; returns PEFT's model."""
    given = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"], **config}
    model = peft.get_peft_model(tiny.base(architecture), peft.IA3Config(**given)).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "ia3_l" in name:
            parameter.data = 1 + 0.5 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return model


@pytest.fixture
def folder(tmp_path):
    """Two (IA)3s and a plain LoRA; they update the same layers and others."""
    saved.save(tmp_path / "library" / NAMES[0], target_modules=["q_proj", "down_proj"], r=3)
    save_ia3(tmp_path / "library" / NAMES[1])
    save_ia3(tmp_path / "library" / NAMES[2], seed=1, target_modules=["v_proj", "up_proj"], feedforward_modules=[])
    return tmp_path / "library"


def logits(model, **given):
    ids = torch.stack(tiny.tokens(6, 6, 6, seed=5))
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **given).logits


def of_peft(folder, name):
    return peft.PeftModel.from_pretrained(tiny.base(), str(folder / name)).eval()


def routed(folder, slug, **options):
    library = Library.read(folder)
    return attach(tiny.base(), library, RECIPES[slug](options), recipe=slug, options=options).eval()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi"])  # plain, Conv1D with bias, linear with bias
def test_ia3_on_its_base_is_pefts(architecture, tmp_path):
    targets = {"gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]), "phi": (["v_proj", "fc2"], ["fc2"])}
    wanted, read = targets.get(architecture, (["k_proj", "v_proj", "down_proj"], ["down_proj"]))
    fan = {"fan_in_fan_out": True} if architecture == "gpt2" else {}
    model = save_ia3(tmp_path / "one", architecture, target_modules=wanted, feedforward_modules=read, **fan)
    adapter, base = read_adapter(tmp_path / "one"), tiny.base(architecture)
    assert {update.reads_input for update in adapter.modules.values()} == {True, False}
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
    """One batch, three experts of two kinds, and the base; also where only one of them is on duty at all."""
    model = routed(folder, "named")
    wanted = [NAMES[2], NAMES[0], NAMES[1]]
    expected = torch.cat([logits(of_peft(folder, name))[row : row + 1] for row, name in enumerate(wanted)])
    torch.testing.assert_close(logits(model, task_ids=model.task_ids(wanted)), expected, **CLOSE)
    plain = logits(model, task_ids=model.task_ids([None, NAMES[1], None]))
    torch.testing.assert_close(plain[[0, 2]], logits(tiny.base())[[0, 2]], **CLOSE)
    for name in NAMES:
        gates = torch.tensor([[float(name == each) for each in NAMES]] * 3)
        torch.testing.assert_close(logits(model, gates=gates), logits(of_peft(folder, name)), **CLOSE)


def test_a_mixture_of_them_is_the_weighted_sum_of_what_they_change(folder):
    weights = [0.5, 0.2, 0.3]
    model = routed(folder, "uniform", weights=weights)
    for name, width in (("model.layers.1.mlp.down_proj", 48), ("model.layers.0.self_attn.v_proj", 32)):
        x, seen = torch.randn(5, width), {}
        with torch.no_grad():
            base = tiny.base().get_submodule(name)(x)
            total = base.clone()
            for weight, each in zip(weights, NAMES, strict=True):
                total += weight * (of_peft(folder, each).base_model.model.get_submodule(name)(x) - base)

            def catch(module, args, output, x=x, base=base, seen=seen):
                seen["y"] = module.get_submodule("roster").forward(x[None], base[None].clone())

            hook = model.get_submodule(name).register_forward_hook(catch)
            model(input_ids=torch.stack(tiny.tokens(5, seed=1)), use_cache=False)
            hook.remove()
        torch.testing.assert_close(seen["y"][0], total, **CLOSE)


@pytest.mark.parametrize("slug", sorted(slug for slug, recipe in RECIPES.items() if recipe.kind == "mixture"))
def test_every_recipe_takes_them_or_says_why_not(slug, tmp_path):
    for name in NAMES[1:]:
        save_ia3(tmp_path / name)
    recipe = RECIPES[slug]
    try:
        mixing = recipe(None)
    except RosterError:
        pytest.skip("needs options")
    adds_up = mixing.experts is None and mixing.average == "updates" and "experts" not in mixing.trains
    if not mixing.causal or not adds_up:
        with pytest.raises(RosterError, match=r"plain LoRAs|it is for encoders"):
            attach(tiny.base(), Library.read(tmp_path), mixing, recipe=slug)
    elif slug in ("arrow-mbc", "logo"):
        with pytest.raises(RosterError, match=f"{slug} reads what adapters add|logo asks adapters at"):
            attach(tiny.base(), Library.read(tmp_path), mixing, recipe=slug)
    elif not set(recipe.needs) & {"examples", "gates"}:
        model = attach(tiny.base(), Library.read(tmp_path), mixing, recipe=slug).eval()
        given = {"task_ids": torch.zeros(3, dtype=torch.long)} if mixing.routes_by_task else {}
        assert (logits(model, **given) - logits(tiny.base())).abs().max() > 1e-3


def test_a_saved_mixture_holds_the_adapters_as_they_were(folder, tmp_path):
    model = routed(folder, "named")
    save(model, tmp_path / "saved")
    again = load(tmp_path / "saved").eval()
    for name in NAMES:
        there = read_adapter(tmp_path / "saved" / "experts" / name)
        assert there.weights_hash == read_adapter(folder / name).weights_hash
    ours, theirs = (logits(each, task_ids=each.task_ids(NAMES)) for each in (model, again))
    assert torch.equal(ours, theirs)


def test_written_again_it_is_the_same_to_peft(folder, tmp_path):
    adapter = read_adapter(folder / NAMES[1])
    assert all(isinstance(update, Vector) for update in adapter.modules.values())
    path = write_adapter(tmp_path / "written", adapter)
    ours, theirs = (load_file(each / "adapter_model.safetensors") for each in (path, folder / NAMES[1]))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    torch.testing.assert_close(logits(of_peft(path.parent, path.name)), logits(of_peft(folder, NAMES[1])))
    half = read_adapter(write_adapter(tmp_path / "half", adapter, dtype=torch.bfloat16))
    assert next(iter(half.modules.values())).vector_X.dtype == torch.bfloat16


def test_headers_tell_the_kind(folder):
    told = read_contents(folder / NAMES[1], NAMES[1])
    assert (told.kind, told.modules, told.ranks) == ("IA3", 6, ())


def test_what_reads_factors_refuses_them(folder):
    library = Library.read(folder)
    with pytest.raises(RosterError, match=r"an \(IA\)3 adapter rescales instead"):
        cluster(library, 2)
    with pytest.raises(RosterError, match=r"DoRAs or \(IA\)3"):
        routed(folder, "uniform").merge()
    with pytest.raises(RosterError, match="of which no LoRA can be made"):
        make_adapter("new", library[NAMES[1]].modules, "tiny/base")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.update({k: v * torch.nan for k, v in t.items()}), "not finite"),
        (lambda t: t.update({k: v.flatten() for k, v in t.items()}), r"is none of an \(IA\)3 adapter"),
        (lambda t: t.update({"base_model.model.x.lora_A.weight": torch.ones(1, 3)}), r"is none of an \(IA\)3 adapter"),
        (lambda t: t.update({k.removeprefix("base_model.model."): v.clone() for k, v in t.items()}), "is there twice"),
    ],
)
def test_damaged(edit, message, folder):
    saved.edit_tensors(folder / NAMES[1], edit)
    with pytest.raises(RosterError, match=message):
        read_adapter(folder / NAMES[1])


def test_vectors_of_another_length_and_whole_modules_are_refused(folder):
    saved.edit_tensors(
        folder / NAMES[1], lambda t: t.update({k: v.repeat_interleave(2, 0) for k, v in t.items() if v.shape[1] == 1})
    )
    with pytest.raises(RosterError, match=r"ia3_l' has \d+ numbers, but this model needs \[\d+, 1\]"):
        check_fits(read_adapter(folder / NAMES[1]), tiny.base())
    saved.edit_config(folder / NAMES[1], modules_to_save=["lm_head"])
    with pytest.raises(RosterError, match="modules_to_save"):
        read_adapter(folder / NAMES[1])
    saved.edit_config(folder / NAMES[1], modules_to_save=None, later="new")
    with pytest.raises(RosterError, match="unknown field 'later'"):
        read_adapter(folder / NAMES[1])
