"""Routed layers that share their first matmul say what they would say alone, and never what they said yesterday."""

import copy

import pytest
import torch

import tiny
from roster.adapters.attach import attach
from roster.adapters.mixing import Mixing
from roster.adapters.site import routed_linears
from roster.api import trace
from roster.library import Library, LowRank, make_adapter
from roster.recipes import find
from roster.router import Router
from roster.score import Linear
from roster.select import TopK


def per_block():
    return Mixing(lambda site: Router(Linear(site.width, site.num_experts, std=1.0), TopK(2)), at="block")


MIXINGS = {"arrow": lambda: find("arrow-mbc")({"top_k": 2}), "block": per_block}
each_mixing = pytest.mark.parametrize("mixing", MIXINGS.values(), ids=MIXINGS)
IDS, MASK = tiny.padded(tiny.tokens(6, 4), "left")


def routed(mixing, targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")):
    torch.manual_seed(0)
    base = tiny.base()
    return attach(base, tiny.library(base, targets=targets), mixing())


def logits(model, grad=False):
    with torch.set_grad_enabled(grad):
        return model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits.detach()


def test_who_is_in_a_group():
    model = routed(MIXINGS["arrow"])
    groups = {name.rpartition(".")[2]: len(child.siblings.members) for name, child in routed_linears(model)}
    assert groups == {"q_proj": 3, "k_proj": 3, "v_proj": 3, "o_proj": 1, "gate_proj": 2, "up_proj": 2, "down_proj": 1}


@each_mixing
def test_equal_to_each_layer_by_itself(mixing):
    """Recording gradients takes the plain path."""
    model = routed(mixing)
    torch.testing.assert_close(logits(model), logits(model, grad=True), atol=1e-6, rtol=1e-5)


@each_mixing
def test_routes_that_are_given_are_taken(mixing):
    model = routed(mixing)
    gates_BE = torch.zeros(len(IDS), len(model.roster.experts)).index_fill_(1, torch.tensor([1, 2]), 0.5)

    def given(grad):
        with torch.set_grad_enabled(grad):
            return model(input_ids=IDS, attention_mask=MASK, use_cache=False, gates=gates_BE).logits.detach()

    torch.testing.assert_close(given(False), given(True), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(given(False), logits(model), atol=1e-4)


@each_mixing
@pytest.mark.parametrize("change", ["in place", "data", "new parameter", "loaded"])
def test_changed_weights_are_seen(mixing, change):
    model = routed(mixing)
    before = logits(model)
    child = dict(routed_linears(model))["model.layers.0.self_attn.k_proj"]
    A_RI = child.experts.A_RI
    with torch.no_grad():
        {
            "in place": lambda: A_RI.mul_(2.0),
            "data": lambda: A_RI.data.mul_(2.0),
            "new parameter": lambda: setattr(child.experts, "A_RI", torch.nn.Parameter(A_RI * 2.0)),
            "loaded": lambda: child.load_state_dict({**child.state_dict(), "experts.A_RI": A_RI * 2.0}),
        }[change]()
    after = logits(model)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, logits(model, grad=True), atol=1e-6, rtol=1e-5)


def test_a_copy_is_on_its_own():
    model = routed(MIXINGS["arrow"])
    before = logits(model)
    twin = copy.deepcopy(model)
    for _, child in routed_linears(twin):
        child.experts.B_RO.data.zero_()
    assert not torch.allclose(logits(twin), before)
    assert torch.equal(logits(model), before)


def test_who_reads_something_else_leaves_the_group():
    model = routed(MIXINGS["arrow"])
    attention = model.model.layers[0].self_attn
    attention.k_proj.register_forward_pre_hook(lambda module, args: (args[0] * 2.0,))
    expected = logits(model, grad=True)
    torch.testing.assert_close(logits(model), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(logits(model), expected, atol=1e-6, rtol=1e-5)
    children = dict(routed_linears(model))
    assert [len(children[f"model.layers.0.self_attn.{name}"].siblings.members) for name in ("q_proj", "k_proj")] == [
        2,
        1,
    ]


def test_experts_that_cannot_be_stacked_stand_alone():
    """Different scales, and ranks that are not the same everywhere."""
    base = tiny.base()
    shapes = {"model.layers.0.self_attn.q_proj": 2, "model.layers.0.self_attn.k_proj": 3}
    widths = {name: base.get_submodule(name).weight.shape for name in shapes}
    modules = {
        name: LowRank(torch.randn(rank, widths[name][1]), torch.randn(widths[name][0], rank), 1.0)
        for name, rank in shapes.items()
    }
    library = Library({name: make_adapter(name, modules, base="tiny/base") for name in ("a", "b", "c")})
    model = attach(base, library, MIXINGS["arrow"]())
    assert all(child.siblings is None for _, child in routed_linears(model))
    torch.testing.assert_close(logits(model), logits(model, grad=True), atol=1e-6, rtol=1e-5)


def test_given_rows_pass_by_layers_that_have_nothing_for_them():
    """Whoever is given serves alone, also where routes are decided in every layer; a trace still hears of each."""
    plain = tiny.base()
    one = tiny.library(plain, 1, targets=("q_proj", "down_proj"))
    two = tiny.library(plain, 2, targets=("v_proj", "up_proj"))
    experts = Library({"a": one["expert 0"], "b": two["expert 1"]})
    ids = torch.stack(tiny.tokens(6, 6, seed=4))
    arrow = attach(tiny.base(), experts, find("arrow-mbc")(), recipe="arrow-mbc").eval()
    named = attach(tiny.base(), experts, find("named")(), recipe="named").eval()
    calls = []
    for name, child in routed_linears(arrow):
        child.experts.register_forward_hook(lambda *_, name=name: calls.append(name.rpartition(".")[2]))
    with torch.no_grad():
        for gates, tasks in (([[1.0, 0], [0, 0]], ["a", None]), ([[0, 0], [0, 0]], [None, None])):
            found = arrow(input_ids=ids, gates=torch.tensor(gates)).logits
            expected = named(input_ids=ids, task_ids=named.task_ids(tasks)).logits
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        # The first layer asks who is on duty at all; after it, those pass by that have nothing to add.
        assert {name for name in calls[1:]} <= {"q_proj", "down_proj"}
        with trace(arrow) as seen:
            arrow(input_ids=ids, gates=torch.tensor([[1.0, 0], [0, 0]]))
    assert len(seen.sites) == len(list(routed_linears(arrow)))
