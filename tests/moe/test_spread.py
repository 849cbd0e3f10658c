"""Models with routed blocks over two and four processes: what they compute together is what one process computes."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

import roster
import tiny
from roster import RosterError
from roster.context import Context
from roster.dispatch.exchange import pipelined
from roster.moe import replace
from roster.moe.shards import gather, read_shards, write_shards
from roster.moe.spreading import spread
from roster.processes import total
from roster.select import Capacity, TopK
from roster.train.schedule import advance
from together import together

ROUND_OFF = 2e-6  # of float32, relative to the largest gradient of a tensor
RECIPES = {
    "switch": ("switch-transformer", {"balance": 0.5}),
    "capacity": ("switch-transformer", {"balance": 0.5, "capacity": 1.0}),
    "top-2": ("gshard-top2", {"balance": 0.5}),
    "shared": ("deepseekmoe", {"num_experts": 8, "k": 2, "balance": 0.5}),
    "bias": ("loss-free-balancing", {}),
    "relu": ("remoe", {"start": 0.1}),
    "top-p": ("dynamic-moe-top-p", {}),
}
CASES = [(recipe, "experts") for recipe in RECIPES] + [("capacity", "shards"), ("bias", "shards")]


def made(recipe):
    torch.manual_seed(0)
    slug, options = RECIPES[recipe]
    return replace(tiny.base(), slug, options=options).train()


def batch():
    """Eight rows, some of them padded, which four processes take two each."""
    ids = torch.stack(tiny.tokens(*[8] * 8, seed=1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    mask[6, 3:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def part(rank, world):
    return slice(rank * 8 // world, (rank + 1) * 8 // world)


def step(model, inputs, world=1):
    """One forward and backward pass, the loss in the measure in which transformers' Trainer takes it."""
    items = (batch()["labels"] != -100).sum()
    output = model(**inputs, num_items_in_batch=items)
    (output.loss * world).backward()
    return output


def furthest(one, many):
    """The largest difference of two models' gradients, in parts of the largest gradient of each tensor."""
    worst = 0.0
    for name, parameter in one.named_parameters():
        grad = many.get_parameter(name).grad
        assert (grad is None) == (parameter.grad is None), name
        if grad is not None:
            scale = parameter.grad.abs().max().clamp_min(1e-8)
            worst = max(worst, float((grad.full_tensor() - parameter.grad).abs().max() / scale))
    return worst


def compared(recipe, way, rank, world, **changed):
    one, many = made(recipe), made(recipe)
    if rank:  # all begin as the first one does
        for parameter in many.parameters():
            parameter.data.zero_()
    spread(many, way)
    for name, value in changed.items():
        setattr(many.roster, name, value)
    whole = step(one, batch())
    mine = part(rank, world)
    output = step(many, {name: tensor[mine] for name, tensor in batch().items()}, world)
    real = batch()["attention_mask"][mine] == 1
    apart = [float((output.logits - whole.logits[mine])[real].detach().abs().max()), furthest(one, many)]
    zero = torch.zeros(())
    apart.append(float((output.get("aux_loss", zero) - whole.get("aux_loss", zero)).detach().abs()))
    advance(one, 0.5)
    advance(many, 0.5)
    buffers = dict(many.named_buffers())
    apart.append(max(float((tensor - buffers[name]).abs().max()) for name, tensor in one.named_buffers()))
    furthest_of_all = torch.tensor(apart)
    distributed.all_reduce(furthest_of_all, op=distributed.ReduceOp.MAX)
    return dict(zip(("logits", "gradients", "balance", "buffers"), furthest_of_all.tolist(), strict=True))


def work(rank, world, folder):
    found = {f"{recipe} {way}": compared(recipe, way, rank, world) for recipe, way in CASES}
    if world == 2:
        found["alone"] = compared("switch", "experts", rank, world, processes=None)
        found["recomputed"] = recomputed(rank, world)
        with pipelined(4):
            found["pipelined"] = compared("shared", "experts", rank, world)
        found["queues"] = queues(rank, world)
        found["half"] = half(rank, world)
        model = spread(made("shared"), "experts")
        model.save_pretrained(folder / "whole", is_main_process=rank == 0)
        write_shards(model, folder / "shards")
        refused(rank, world, folder)
    found["copies"] = copies(rank, world)
    again = spread(made("shared"), "experts")
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    read_shards(again, folder / "shards")
    mine = part(rank, world)
    with torch.no_grad():
        logits = again.eval()(input_ids=batch()["input_ids"][mine]).logits
    save_file({"logits": logits}, folder / f"logits-{world}-{rank}.safetensors")
    if rank == 0:
        (folder / f"found-{world}.json").write_text(json.dumps(found))


def recomputed(rank, world):
    one, many = made("top-2"), spread(made("top-2"), "experts")
    many.gradient_checkpointing_enable({"use_reentrant": False})
    step(one, batch())
    step(many, {name: tensor[part(rank, world)] for name, tensor in batch().items()}, world)
    return furthest(one, many)


def copies(rank, world):
    """DistributedDataParallel, which Trainer wraps a model in that is not sharded."""
    one, many = made("switch"), spread(made("switch"), "copies")
    step(one, batch())
    wrapped = torch.nn.parallel.DistributedDataParallel(many)
    step(wrapped, {name: tensor[part(rank, world)] for name, tensor in batch().items()}, world)
    pairs = zip(one.parameters(), many.parameters(), strict=True)
    return max(float((a.grad - b.grad).abs().max() / a.grad.abs().max()) for a, b in pairs)


def queues(rank, world):
    """Whether the pairs that keep a place, by the order of tokens or by weight, are those of one process."""
    scores_TE = torch.randn(30, 4, generator=torch.Generator().manual_seed(3))
    mine = slice(0, 13) if rank == 0 else slice(13, 30)  # unequal parts
    same = []
    for overflow in ("order", "score"):
        select = Capacity(TopK(2), 0.8, overflow)
        whole = select(scores_TE, Context(1, 30)).chosen()
        context = Context(1, len(scores_TE[mine]), processes=distributed.group.WORLD)
        same.append(torch.equal(select(scores_TE[mine], context).chosen(), whole[mine]))
    with pytest.raises(RosterError, match="cannot be rerouted among several processes"):
        Capacity(TopK(2), 0.8, "reroute")(scores_TE[mine], context)
    return same


def half(rank, world):
    """Routers stay in float32 beside experts in half precision."""
    one, many = made("top-2").to(torch.bfloat16), made("top-2").to(torch.bfloat16)
    spread(many, "experts")
    mine = part(rank, world)
    with torch.no_grad():
        whole = one(input_ids=batch()["input_ids"]).logits[mine]
        apart = (many(input_ids=batch()["input_ids"][mine]).logits - whole).abs().max()
    return float(apart / whole.abs().max())


def refused(rank, world, folder):
    for recipe, options, message in (
        ("hmoe", {}, "no stacks of whole experts of one width"),
        ("x-moe", {}, "is a single number"),
        ("switch-transformer", {"num_experts": 3}, "3 experts of 'model.layers.0.mlp' do not divide among 2"),
    ):
        model = replace(tiny.base(), recipe, options=options)
        with pytest.raises(RosterError, match=message):
            spread(model)
    with pytest.raises(RosterError, match="no routed blocks"):
        spread(tiny.base())
    with pytest.raises(RosterError, match="holds shards already"):
        write_shards(made("shared"), folder / "shards")
    with pytest.raises(RosterError, match=r"is missing from|not \["):
        read_shards(made("switch"), folder / "shards")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spread")
    together("moe.test_spread", "work", folder, 2, 4)
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def found(request, folder):
    return json.loads((folder / f"found-{request.param}.json").read_text())


@pytest.mark.parametrize(("recipe", "way"), CASES)
def test_what_is_spread_computes_what_one_process_does(recipe, way, found):
    apart = found[f"{recipe} {way}"]
    assert apart["logits"] < 1e-5
    assert apart["gradients"] < ROUND_OFF
    assert apart["balance"] < 1e-6
    assert apart["buffers"] < 1e-6


def test_copies_compute_what_one_process_does(found):
    assert found["copies"] < ROUND_OFF


def test_without_the_sums_over_processes_the_balance_is_another(folder):
    apart = json.loads((folder / "found-2.json").read_text())["alone"]
    assert apart["balance"] > 1e-3
    assert apart["gradients"] > 1e-3
    assert apart["logits"] < 1e-5, "the sums concern losses and capacities alone"


def test_recomputation_chunks_capacities_and_half_precision(folder):
    found = json.loads((folder / "found-2.json").read_text())
    assert found["recomputed"] < ROUND_OFF
    assert found["pipelined"]["logits"] < 1e-6
    assert found["pipelined"]["gradients"] < ROUND_OFF
    assert found["queues"] == [True, True]
    assert found["half"] < 0.02


def test_what_is_spread_is_saved_whole(folder):
    again, one = roster.load(folder / "whole"), made("shared")
    state = again.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("world", [2, 4])
def test_shards_of_two_processes_are_read_by_any_number(world, folder):
    with torch.no_grad():
        wanted = made("shared").eval()(input_ids=batch()["input_ids"]).logits
    logits = torch.cat([load_file(folder / f"logits-{world}-{rank}.safetensors")["logits"] for rank in range(world)])
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0.0)


def test_the_ordinary_folder_is_made_of_shards(folder, tmp_path):
    files = [path.name for path in (folder / "shards").rglob("*") if path.is_file()]
    assert sum(name.endswith(".safetensors") for name in files) == 2
    assert all(name.endswith((".safetensors", ".json")) for name in files), "no pickles"
    gather(folder / "shards", tmp_path / "ordinary")
    again, one = roster.load(tmp_path / "ordinary"), made("shared").eval()
    state = again.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_one_process_alone(tmp_path):
    with pytest.raises(RosterError, match="start them with torchrun"):
        spread(made("switch"))
    value = torch.ones(3)
    assert total(value, None) is value
    write_shards(made("top-2"), tmp_path / "alone")
    other = made("top-2")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    read_shards(other, tmp_path / "alone")
    for name, tensor in made("top-2").state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
