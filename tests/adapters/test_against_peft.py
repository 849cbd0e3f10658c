"""roster against PEFT: the methods that both have are the same function, in float32, to 1e-5.

PEFT loads the adapters from the files that roster wrote, so the formats are held together too.
"""

import peft
import pytest
import torch
from peft import ArrowConfig, PeftModel, PolyConfig, XLoraConfig
from peft.tuners.lora import create_arrow_model
from torch import nn

import tiny
from roster.adapters.attach import attach
from roster.adapters.site import routed_linears
from roster.library import Library, LowRank, make_adapter, write_adapter
from roster.recipes import RECIPES
from roster.route import Route
from roster.routed.running import CHILD
from roster.score.prototype import top_input_direction

ATOL = 1e-5
# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def folder(tmp_path):
    tiny.library(tiny.base(), 4, folder=tmp_path, scales=[2.0, 1.0, 0.5, 3.0])
    return tmp_path


@pytest.fixture
def ids():
    return torch.stack(tiny.tokens(7, 7, 7, seed=3))


def routed(slug, folder, **options):
    return attach(tiny.base(), Library.read(folder), RECIPES[slug](options), recipe=slug, options=options).eval()


def paths(folder):
    return [str(folder / name) for name in Library.read(folder).names]


def logits(model, ids, **given):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **given).logits


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=ATOL, rtol=1e-5)


def peft_model(folder):
    """PEFT's model with all adapters loaded under their own names."""
    names = Library.read(folder).names
    model = PeftModel.from_pretrained(tiny.base(), str(folder / names[0]), adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(str(folder / name), adapter_name=name)
    return model.eval()


def test_arrow(folder, ids):
    """Given the same directions, the routes, weights and outputs are those of PEFT's Arrow."""
    theirs = create_arrow_model(tiny.base(), paths(folder), ArrowConfig(top_k=2, router_temperature=1.0)).eval()
    expected = logits(theirs, ids)
    ours = routed("arrow-mbc", folder, top_k=2, temperature=1.0)
    count = 0
    for name, module in theirs.base_model.model.named_modules():
        if getattr(module, "lora_arrow", None):
            vectors_ED = ours.get_submodule(f"{name}.{CHILD}").router.score.vectors_ED
            vectors_ED.copy_(module.lora_arrow["arrow_router"].prototypes)
            count += 1
    assert count == len(list(routed_linears(ours))) > 0
    close(logits(ours, ids), expected)
    assert (expected - logits(tiny.base(), ids)).abs().max() > 0.01


def test_arrow_directions(tmp_path, ids):
    """Where the largest singular value stands out, PEFT's power iteration finds the exact direction, up to sign."""
    model, generator, adapters = tiny.base(), torch.Generator().manual_seed(1), {}
    for index in range(3):
        modules = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name.endswith(("q_proj", "down_proj")):
                A = torch.randn(4, module.in_features, generator=generator)
                B = torch.randn(module.out_features, 4, generator=generator)
                U, _, V = torch.linalg.svd(B @ A, full_matrices=False)
                size = torch.tensor([10.0, 2.0, 1.0, 0.5])
                modules[name] = LowRank((size.sqrt()[:, None] * V[:4]).contiguous(), U[:, :4] * size.sqrt(), 1.0)
        adapters[f"e{index}"] = make_adapter(f"e{index}", modules, base="tiny/base")
        write_adapter(tmp_path, adapters[f"e{index}"])
    theirs = create_arrow_model(tiny.base(), paths(tmp_path), ArrowConfig(top_k=2)).eval()
    logits(theirs, ids)
    ours = routed("arrow-mbc", tmp_path, top_k=2)
    for name, child in routed_linears(ours):
        found_ED = theirs.base_model.model.get_submodule(name).lora_arrow["arrow_router"].prototypes
        cosine_E = torch.cosine_similarity(child.router.score.vectors_ED, found_ED).abs()
        assert (cosine_E > 0.999).all(), name
    close(logits(ours, ids), logits(theirs, ids))


def test_arrow_direction_is_the_first_right_singular_vector():
    torch.manual_seed(1)
    A_RD, B_OR = torch.randn(3, 16), torch.randn(24, 3)
    _, _, right = torch.linalg.svd((B_OR.double() @ A_RD.double()), full_matrices=False)
    found_D = top_input_direction(A_RD, B_OR).double()
    torch.testing.assert_close((found_D @ right[0]).abs(), torch.tensor(1.0, dtype=torch.double), atol=1e-6, rtol=0)
    assert not top_input_direction(A_RD, torch.zeros(24, 3)).any()


def test_polytropon(folder, ids):
    """The same skills and the same allocation logits: the same function of (tokens, task) as PEFT's Poly."""
    # Poly divides by the rank, so its scale is 1 / r for every skill.
    model, skills = tiny.base(), {}
    for name, adapter in Library.read(folder).items():
        modules = {site: LowRank(u.A_RD, u.B_OR, 1 / u.A_RD.shape[0]) for site, u in adapter.modules.items()}
        skills[name] = make_adapter(name, modules, base="tiny/base")
    tasks = ["a", "b", "c"]
    recipe = RECIPES["polytropon"]({"tasks": tasks, "average": "factors"})
    ours = attach(model, Library(skills), recipe, recipe="polytropon").eval()
    targets = list(tiny.ARCHITECTURES["llama"][2])
    config = PolyConfig(r=4, n_skills=4, n_tasks=3, n_splits=1, target_modules=targets, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(tiny.base(), config).eval()
    generator = torch.Generator().manual_seed(2)
    for name, child in routed_linears(ours):
        layer = theirs.base_model.model.get_submodule(name)
        table_NE = torch.randn(3, 4, generator=generator)
        child.router.score.table_NE.data.copy_(table_NE)
        layer.poly_router["default"].module_logits.data.copy_(table_NE)
        updates = [skill.modules[name] for skill in skills.values()]
        layer.poly_lora_A["default"].data.copy_(torch.stack([u.A_RD.T for u in updates])[None])
        layer.poly_lora_B["default"].data.copy_(torch.stack([u.B_OR.T for u in updates])[None])
    task_ids = torch.tensor([2, 0, 1])
    expected = logits(theirs, ids, task_ids=task_ids)
    close(logits(ours, ids, task_ids=task_ids), expected)
    assert (logits(ours, ids, task_ids=task_ids.flip(0)) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("layerwise", [True, False])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("top_k", [None, 2])
def test_xlora(folder, ids, depth, layerwise, top_k):
    """Given the same classifier. PEFT numbers the layers as it meets them, roster in the order of the model."""
    plain = tiny.base()
    plain.config.use_cache = False
    config = XLoraConfig(
        task_type="CAUSAL_LM",
        hidden_size=32,
        xlora_depth=depth,
        xlora_size=16,
        layerwise_scalings=layerwise,
        top_k_lora=top_k,
        softmax_temperature=0.5,
        adapters={str(index): path for index, path in enumerate(paths(folder))},
    )
    theirs = peft.get_peft_model(plain, config).eval()
    classifier = theirs.base_model.internal_xlora_classifier
    for parameter in classifier.parameters():
        parameter.data.mul_(3.0)
    ours = routed("x-lora", folder, depth=depth, hidden=16, layerwise=layerwise, top_k=top_k, temperature=0.5)
    head = ours.roster.head
    if depth == 2:
        head.layers[0].load_state_dict(classifier.layers[0].state_dict())
    last = classifier.layers[-1]
    number = {}
    for name, module in theirs.base_model.lora_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.Linear):
            number[name] = module.forward.__self__.layer_number
    order = [number[name] for name, _ in routed_linears(ours)] if layerwise else [0]
    head.weight_NED.data.copy_(last.weight.data.view(-1, 4, last.in_features)[order])
    head.bias_NE.data.copy_(last.bias.data.view(-1, 4)[order])
    expected = logits(theirs, ids)
    close(logits(ours, ids), expected)
    assert (expected - logits(tiny.base(), ids)).abs().max() > 0.01


def test_named(folder, ids):
    """A batch may mix experts and the plain base, as with PEFT's `adapter_names`."""
    wanted = ["expert 2", None, "expert 0"]
    ours = routed("named", folder)
    expected = logits(peft_model(folder), ids, adapter_names=[name or "__base__" for name in wanted])
    found = logits(ours, ids, task_ids=ours.task_ids(wanted))
    close(found, expected)
    close(found[1], logits(tiny.base(), ids)[1])
    assert (found[0] - found[1]).abs().max() > 0.01


@pytest.mark.parametrize("weights", [None, [0.5, 0.0, 0.25, 1.0]])
def test_uniform(folder, ids, weights):
    """The weighted sum of the updates is what PEFT's 'cat' combination computes."""
    theirs, names = peft_model(folder), Library.read(folder).names
    theirs.add_weighted_adapter(names, weights or [0.25] * 4, "mix", combination_type="cat")
    theirs.set_adapter("mix")
    close(logits(routed("uniform", folder, weights=weights), ids), logits(theirs, ids))


def test_mean_of_factors_is_something_else(folder):
    """mean(B) mean(A), which PEFT's 'linear' combination computes, is not the mean of the updates B A."""
    ours, adapters = routed("uniform", folder), Library.read(folder)
    theirs, names = peft_model(folder), adapters.names
    theirs.add_weighted_adapter(names, [0.25] * 4, "linear", combination_type="linear")
    name, child = next(iter(routed_linears(ours)))
    updates = [adapter.modules[name] for adapter in adapters.values()]
    mean_OI = sum(u.scale * u.B_OR @ u.A_RD for u in updates) / 4
    layer = theirs.base_model.model.get_submodule(name)
    linear_OI = layer.get_delta_weight("linear")
    assert torch.linalg.norm(linear_OI - mean_OI) > 0.5 * torch.linalg.norm(mean_OI)
    x_TI = torch.randn(5, 32)
    gates = torch.full((5, 4), 0.25)
    with torch.no_grad():
        found_TO = child.experts(x_TI, torch.zeros(5, mean_OI.shape[0]), Route.from_gates(gates))
    close(found_TO, x_TI @ mean_OI.T)
