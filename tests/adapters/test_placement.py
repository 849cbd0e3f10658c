"""Where a base may rest: offloaded to a disk or another device, in half precision, quantised, or sharded by blocks."""

import accelerate
import pytest
import torch
from torch import nn

import roster
import tiny
from roster.adapters.attach import attach
from roster.adapters.site import routed_linears
from roster.library import Library, LowRank, make_adapter, read_adapter, write_adapter
from roster.library.gates import write_gates
from roster.recipes import RECIPES
from roster.score.prototype import top_input_direction

SLUGS = ("arrow-mbc", "x-lora", "smear", "polytropon")
each_recipe = pytest.mark.parametrize("slug", SLUGS)


def put(model, slug, library=None):
    """Attached; routers drawn by name, so that every placement has the same."""
    library = tiny.library(tiny.base()) if library is None else library
    torch.manual_seed(0)
    model = attach(model, library, RECIPES[slug](), recipe=slug).eval()
    generator = torch.Generator().manual_seed(5)
    for _, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def inputs(model):
    ids, mask = tiny.padded(tiny.tokens(6, 4), "left")
    given = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if model.roster.plan.tasks is not None:
        given["task_ids"] = torch.arange(2)
    return given


def logits(model):
    with torch.no_grad():
        return model(**inputs(model)).logits


def labelled(given):
    """With labels on all but the first columns, which are the prompt."""
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    labels[:, :3] = -100
    return {**given, "labels": labels}


def plain_logits(model):
    ids, mask = tiny.padded(tiny.tokens(6, 4), "left")
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits


def on_disk(model, tmp_path):
    return accelerate.disk_offload(model, tmp_path / "offload", execution_device=torch.device("cpu"))


def in_memory(model, tmp_path):
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def dispatched(model, tmp_path):
    device_map = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    device_map |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    return accelerate.dispatch_model(
        model, device_map, main_device="cpu", offload_dir=tmp_path / "offload", force_hooks=True
    )


def from_pretrained(model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    return type(model).from_pretrained(tmp_path / "base", device_map={"": "cpu"}).eval()


@pytest.mark.parametrize("place", [on_disk, in_memory, dispatched, from_pretrained])
@each_recipe
def test_offloaded(slug, place, tmp_path):
    expected = logits(put(tiny.base(), slug))
    placed = place(tiny.base(), tmp_path)
    if place in (on_disk, in_memory):
        assert placed.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    model = put(placed, slug)
    found = logits(model)
    assert torch.equal(found, expected)
    assert (found - plain_logits(tiny.base())).abs().max() > 0.01
    if hasattr(model, "_hf_hook"):
        ids = model.generate(**{**inputs(model), "use_cache": True}, max_new_tokens=3, do_sample=False)
        plain = put(tiny.base(), slug)
        assert torch.equal(ids, plain.generate(**{**inputs(plain), "use_cache": True}, max_new_tokens=3))


def test_a_mixture_on_a_base_that_is_nowhere_in_memory_is_not_saved(tmp_path):
    """Its base could not be told from another when it is loaded again."""
    model = put(on_disk(tiny.base(), tmp_path), "arrow-mbc")
    with pytest.raises(roster.RosterError, match="offloaded"):
        model.save_pretrained(tmp_path / "saved", include_base=False)
    assert not (tmp_path / "saved").exists()


def test_a_partly_offloaded_mixture_is_saved(tmp_path):
    model = put(dispatched(tiny.base(), tmp_path), "arrow-mbc")
    model.save_pretrained(tmp_path / "saved", include_base=False)
    again = roster.load(tiny.base(), experts=tmp_path / "saved")
    assert torch.equal(logits(again), logits(model))


@each_recipe
def test_half_precision(slug):
    """A base in bfloat16 keeps experts that are stored in float32, and gives the answer of float32 up to rounding."""
    exact = logits(put(tiny.base(), slug))
    model = put(tiny.base().to(torch.bfloat16), slug)
    for name, child in routed_linears(model):
        assert model.get_submodule(name).weight.dtype == torch.bfloat16
        assert child.experts.A_RI.dtype == torch.float32
    found = logits(model)
    assert found.dtype == torch.bfloat16
    real = inputs(model)["attention_mask"].bool()
    base_error = (plain_logits(tiny.base().to(torch.bfloat16)).float() - plain_logits(tiny.base()))[real].abs().max()
    # A token near a tie may be routed to another expert; the mean is not moved by one token.
    assert (found.float() - exact)[real].abs().median() < 10 * base_error
    assert (found.float() - plain_logits(tiny.base()))[real].abs().median() > (found.float() - exact)[
        real
    ].abs().median()


class Quantised(nn.Module):
    """Stands in for bitsandbytes' and other packages' layers: integers at rest, floats while computing."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale_O1 = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.detach() / scale_O1).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale_O1", scale_O1)

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale_O1.to(x.dtype))


def quantised():
    model = tiny.base()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, Quantised(module))
    return model


@each_recipe
def test_quantised(slug):
    """The experts stay floats beside an int8 weight, act as they do on the dequantised base, and train."""
    dequantised = tiny.base()
    for name, module in quantised().named_modules():
        if isinstance(module, Quantised):
            dequantised.get_submodule(name).weight.data.copy_(module.weight * module.scale_O1)
    expected = logits(put(dequantised, slug))
    model = put(quantised(), slug)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert (logits(model) - plain_logits(quantised())).abs().max() > 0.01
    for name, child in routed_linears(model):
        assert model.get_submodule(name).weight.dtype == torch.int8
        assert child.experts.A_RI.dtype == torch.float32
    if model.roster.plan.trains:
        model.train()
        model(**labelled(inputs(model))).loss.backward()
        for name, parameter in model.named_parameters():
            assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, name


def test_a_quantised_base_is_not_merged_into():
    model = put(quantised(), "uniform")
    with pytest.raises(roster.RosterError, match="quantised: save the merged adapter"):
        model.merge().plain_model()
    assert model.merge().exact


def test_an_expert_that_lives_in_one_block_only():
    """Sites with a single expert of several work; the others are not on duty there, and their weight goes to nobody."""
    model = tiny.base()
    whole = tiny.library(model, 2)
    name = "model.layers.1.mlp.up_proj"
    update = LowRank(torch.randn(2, 32), torch.randn(48, 2), 1.0)
    library = Library({**whole, "small": make_adapter("small", {name: update}, base="tiny/base")})
    model = put(model, "arrow-mbc", library)
    with roster.trace(model) as routes:
        logits(model)
    gates = {site: routes.gates(site) for site in routes.sites}
    assert gates[name].shape[1] == 3
    assert gates[name][:, 2].abs().sum() > 0
    assert all(not gates[site][:, 2].any() for site in gates if site != name)
    # Where all are present the weights sum to one; the one that stands alone keeps the share that it would have among
    # all: of its score against two scores of zero.
    target = next(site for site in gates if site.endswith("layers.0.mlp.up_proj"))
    assert (gates[target].sum(1) < 1).all()
    direction_D = top_input_direction(update.A_RD, update.B_OR)
    seen = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    with torch.no_grad(), roster.trace(model) as routes:
        model(**inputs(model))
    handle.remove()
    row_SI = seen[0][0]  # gates are those of the first row, which has no padding
    scores_S3 = torch.zeros(len(row_SI), 3)
    others = [top_input_direction(u.A_RD, u.B_OR) for e in whole.names for u in [whole[e].modules[name]]]
    for index, each_D in enumerate([*others, direction_D]):
        scores_S3[:, index] = (row_SI @ each_D).abs()
    torch.testing.assert_close(gates[name][:, 2], scores_S3.softmax(1)[:, 2], atol=1e-5, rtol=1e-4)


@pytest.fixture
def one_process(tmp_path):
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # gloo and DTensor warn on CPUs
@pytest.mark.parametrize("slug", ["arrow-mbc", "x-lora", "smear", "mov-molora"])
def test_sharded_by_blocks(slug, one_process):
    """FSDP2 on one process: a block's routed parameters belong to its unit, and the answer and gradients are equal."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    plain, model = put(tiny.base(), slug), put(tiny.base(), slug)
    expected = logits(plain)
    for block in model.model.layers:
        fully_shard(block, mesh=one_process)
    inside = {name for i, block in enumerate(model.model.layers) for name, p in
              block.named_parameters(prefix=f"model.layers.{i}") if isinstance(p, DTensor)}  # fmt: skip
    ours = {name for name, _ in model.named_parameters() if ".roster." in name and name.startswith("model.layers")}
    assert ours
    assert ours <= inside
    fully_shard(model, mesh=one_process)
    torch.testing.assert_close(logits(model), expected, atol=1e-6, rtol=1e-6)
    if not plain.roster.plan.trains:
        return
    for each in (plain, model):
        each.train()
        torch.manual_seed(0)  # for recipes that drop experts
        each(**labelled(inputs(each))).loss.backward()
    sharded = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            found = sharded[name].grad.full_tensor()
            torch.testing.assert_close(found, parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("slug", ["arrow-mbc", "phatgoose", "mov-molora", "x-lora", "uniform", "polytropon", "smear"])
def test_in_every_recipe_an_expert_that_stands_alone_keeps_its_share(slug, tmp_path):
    """An adapter with one target more than the others: there it answers with its own weight, not with all of theirs."""
    whole = tiny.library(tiny.base(), 3, folder=tmp_path)
    name = "model.layers.1.mlp.gate_proj"
    wide = whole["expert 2"]
    update = LowRank(torch.randn(4, 32) * 0.2, torch.randn(48, 4) * 0.3, 2.0)
    path = write_adapter(tmp_path, make_adapter("wide", {**wide.modules, name: update}, base="tiny/base"))
    write_gates(path, {key: torch.randn(u.A_RD.shape[1]) for key, u in {**wide.modules, name: update}.items()})
    library = Library({**{n: whole[n] for n in ("expert 0", "expert 1")}, "wide": read_adapter(path)})
    model = put(tiny.base(), slug, library)
    weights = []
    child = model.get_submodule(name).roster
    forward = child.experts.forward

    def watch(x_TI, y_TO, route):
        weights.append(route.dense())
        return forward(x_TI, y_TO, route)

    child.experts.forward = watch
    child.siblings = None
    logits(model)
    mean = float(torch.cat(weights)[:, 2].mean())
    assert 0.0 < mean < 0.9, mean
