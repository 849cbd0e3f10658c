"""Omni-SMoLA: the equation written out, and where it must not be used."""

import pytest
import torch

import roster
import tiny
from roster import Context, RosterError, Route
from roster.adapters.attach import attach
from roster.adapters.site import routed_linears
from roster.experts import LowRankExperts
from roster.library import Library, make_adapter
from roster.recipes import find

TARGETS = ("query", "value")


def routed(**options):
    model = tiny.encoder()
    library = tiny.library(model, 3, targets=TARGETS, ranks=[4, 2, 3], scales=[2.0, 1.0, 0.5])
    return attach(model, library, find("omni-smola")(options), recipe="omni-smola", options=options).eval()


@pytest.mark.parametrize("slots", [1, 3])
def test_it_is_its_equation(slots):
    torch.manual_seed(0)
    model = routed(slots=slots)
    _, child = next(iter(routed_linears(model)))
    phi_ND = torch.nn.functional.normalize(child.router.score.slots_EPD.detach().flatten(0, 1), dim=1)
    child.router.score.scale.data.fill_(3.0)
    x_BSI, mask_BS = torch.randn(2, 5, 32), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    with torch.no_grad():
        route = child.router(x_BSI.flatten(0, 1), Context(2, 5, mask_BS=mask_BS))
        found_BSO = child.experts(x_BSI.flatten(0, 1), torch.zeros(10, 32), route).view(2, 5, 32)
    for x_SI, found_SO, mask_S in zip(x_BSI, found_BSO, mask_BS, strict=True):
        real_SI = x_SI[mask_S]
        L_SN = 3.0 * torch.nn.functional.normalize(real_SI, dim=1) @ phi_ND.T
        slots_NI = L_SN.softmax(0).T @ real_SI
        made = []
        for slot, row_I in enumerate(slots_NI):
            A_rI, B_Or, scale = child.experts.expert(slot // slots)
            made.append(scale * B_Or @ (A_rI @ row_I))
        torch.testing.assert_close(found_SO[mask_S], L_SN.softmax(1) @ torch.stack(made).detach(), atol=1e-5, rtol=1e-4)
        assert not found_SO[~mask_S].any()  # padding is served by nobody


def test_tokens_may_stand_in_any_order():
    """Of one layer by itself: a row's tokens in another order are served alike."""
    model, order = routed(slots=2), torch.tensor([3, 0, 4, 1, 2])
    _, child = next(iter(routed_linears(model)))
    x_SI = torch.randn(5, 32)
    with torch.no_grad():
        one = child.experts(x_SI, torch.zeros(5, 32), child.router(x_SI, Context(1, 5)))
        other = child.experts(x_SI[order], torch.zeros(5, 32), child.router(x_SI[order], Context(1, 5)))
    torch.testing.assert_close(other, one[order], atol=1e-5, rtol=1e-5)


def test_gates_that_the_caller_gives_choose_experts():
    model = routed()
    ids = torch.stack(tiny.tokens(5, 5))
    gates_BE = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    with torch.no_grad():
        found = model(input_ids=ids, gates=gates_BE).logits
        plain = tiny.encoder()(input_ids=ids).logits
    torch.testing.assert_close(found[1], plain[1], atol=1e-5, rtol=1e-5)
    assert (found[0] - plain[0]).abs().max() > 1e-3
    _, child = next(iter(routed_linears(model)))
    x_TI, gate_TE = torch.randn(4, 32), torch.rand(4, 3)
    factors = [child.experts.expert(index) for index in range(3)]
    with torch.no_grad():
        chosen = child.experts(x_TI, torch.zeros(4, 32), Route.from_gates(gate_TE))
        torch.testing.assert_close(chosen, LowRankExperts(factors)(x_TI, torch.zeros(4, 32), Route.from_gates(gate_TE)))


def test_a_model_that_writes_is_refused(tmp_path):
    model = tiny.base()
    library = tiny.library(model, 2, folder=tmp_path)
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(RosterError, match="it is for encoders"):
        attach(model, library, find("omni-smola")(), recipe="omni-smola")
    assert {name: type(module) for name, module in model.named_modules()} == before
    with pytest.raises(RosterError, match="it is for encoders"):
        roster.load(tiny.base(), experts=tmp_path, router="omni-smola")


def test_an_expert_that_is_missing_somewhere_is_refused():
    model = tiny.encoder()
    whole = tiny.library(model, 2, targets=TARGETS)
    half = {name: update for name, update in whole["expert 1"].modules.items() if "query" in name}
    library = Library({"expert 0": whole["expert 0"], "half": make_adapter("half", half, "tiny/base")})
    with pytest.raises(RosterError, match="expert 'half' has no update of"):
        attach(model, library, find("omni-smola")(), recipe="omni-smola")
