"""LowRankExperts: every fast path computes what the plain `_reference` does, gradients included, and `_reference`
computes the sum of explicit matrices.

Shape legend: T tokens, E experts, K slots, I and O widths.
"""

import copy

import pytest
import torch

from roster.errors import RosterError
from roster.experts import LowRankExperts, low_rank
from roster.route import Route, SoftRoute

T, E, I, O = 9, 16, 24, 32  # noqa: E741


def factors(ranks, scales):
    return [
        None if not rank else (torch.randn(rank, I) * I**-0.5, torch.randn(O, rank) * O**-0.5, scale)
        for rank, scale in zip(ranks, scales, strict=True)
    ]


EXPERTS = {
    "equal": ([4] * E, [2.0] * E),
    "unequal scales": ([4] * E, [0.5 + index / 4 for index in range(E)]),
    "unequal ranks": ([1 + index % 5 for index in range(E)], [2.0] * E),
    "rslora": ([1 + index % 5 for index in range(E)], [8 / (1 + index % 5) ** 0.5 for index in range(E)]),
    "missing": ([0 if index % 3 == 1 else 4 for index in range(E)], [2.0] * E),
}


def slots(weight_TE, K=3, nobody=True):
    """Different experts per token, some slots unused; gradients reach `weight_TE`."""
    expert_TK = torch.stack([torch.randperm(E)[:K] for _ in range(T)])
    weight_TK = weight_TE.gather(1, expert_TK)
    if nobody:
        off_TK = torch.zeros(T, K, dtype=torch.bool)
        off_TK[0], off_TK[1, 0], off_TK[-1, -1] = True, True, True
        expert_TK, weight_TK = expert_TK.masked_fill(off_TK, E), weight_TK.masked_fill(off_TK, 0.0)
    return Route.slots(expert_TK, weight_TK, E)


def pairs(weight_TE):
    """A bare list of (token, expert, weight), in no order, a token with many and a token with none."""
    token_R, expert_R = torch.tensor([5, 0, 5, 5, 8, 2, 7, 5]), torch.tensor([3, 1, E, 0, 15, 2, 9, 15])
    weight_R = torch.cat([weight_TE, weight_TE.new_zeros(T, 1)], 1)[token_R, expert_R]
    return Route(token_R, expert_R, weight_R, T, E)


def soft(weight_TE):
    """Two rows per expert."""
    weight_TR = weight_TE.repeat_interleave(2, dim=1)
    return SoftRoute(weight_TR.softmax(0), weight_TR.softmax(1), E)


ROUTES = {
    "slots": slots,
    "one slot": lambda weight_TE: slots(weight_TE, K=1, nobody=False),
    "gates": Route.from_gates,
    "sparse gates": lambda weight_TE: Route.from_gates(weight_TE * (weight_TE > 0)),
    "masked": lambda weight_TE: slots(weight_TE).keep(torch.arange(T) % 2 == 0),
    "pairs": pairs,
    "soft": soft,
}


def run(experts, compute, route_of, no_grad=False):
    """(output, gradients) for seeded inputs."""
    torch.manual_seed(3)
    x_TI, y_TO = torch.randn(T, I, requires_grad=True), torch.randn(T, O)
    weight_TE = torch.randn(T, E, requires_grad=True)
    route = route_of(weight_TE)
    if no_grad:
        with torch.no_grad():
            return compute(x_TI, y_TO, route), []
    out_TO = compute(x_TI, y_TO, route)
    grads = torch.autograd.grad((out_TO * torch.randn(T, O)).sum(), [x_TI, weight_TE, experts.A_RI, experts.B_RO])
    return out_TO.detach(), grads


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.parametrize("route", ROUTES)
def test_dense_path(kind, route):
    experts = LowRankExperts(factors(*EXPERTS[kind]), trains=True)
    expected = run(experts, experts._reference, ROUTES[route])
    assert_same(run(experts, experts, ROUTES[route]), expected)
    assert all(grad.abs().sum() > 0 for grad in expected[1])
    assert_same(run(experts, experts, ROUTES[route], no_grad=True), (expected[0], []))


@pytest.mark.parametrize("route", ["slots", "one slot", "masked"])
@pytest.mark.parametrize("kind", ["equal", "unequal scales"])
def test_grouped_path(kind, route, monkeypatch):
    monkeypatch.setattr(low_rank, "GROUPED_FROM_RANKS", 1)
    experts = LowRankExperts(factors(*EXPERTS[kind]), trains=True)
    taken = []
    grouped = experts._grouped
    experts._grouped = lambda *args: taken.append(1) or grouped(*args)
    expected = run(experts, experts._reference, ROUTES[route])
    assert_same(run(experts, experts, ROUTES[route]), expected)
    assert_same(run(experts, experts, ROUTES[route], no_grad=True), (expected[0], []))
    assert len(taken) == 2


@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.parametrize("route", ROUTES)
def test_other_routes_fall_back_when_grouping_is_on(kind, route, monkeypatch):
    """Whatever cannot be grouped (unequal ranks, dense gates) is still right."""
    monkeypatch.setattr(low_rank, "GROUPED_FROM_RANKS", 1)
    experts = LowRankExperts(factors(*EXPERTS[kind]), trains=True)
    assert_same(run(experts, experts, ROUTES[route]), run(experts, experts._reference, ROUTES[route]))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["equal", "unequal scales"])
def test_averaged_factors(kind, route):
    experts = LowRankExperts(factors(*EXPERTS[kind]), average="factors", trains=True)
    expected = run(experts, experts._reference, ROUTES[route])
    assert_same(run(experts, experts, ROUTES[route]), expected)
    assert_same(run(experts, experts, ROUTES[route], no_grad=True), (expected[0], []))


@pytest.mark.parametrize("kind", ["unequal ranks", "missing"])
def test_averaged_factors_need_equal_ranks(kind):
    with pytest.raises(RosterError, match="the same rank for every expert"):
        LowRankExperts(factors(*EXPERTS[kind]), average="factors")


@pytest.mark.parametrize("kind", EXPERTS)
def test_reference_is_the_sum_of_explicit_matrices(kind):
    """delta W = sum_e g_e scale_e B_e A_e, formed in full from what was given, in float64."""
    given = factors(*EXPERTS[kind])
    experts = LowRankExperts(given)
    x_TI, gate_TE = torch.randn(T, I), torch.rand(T, E)
    expected_TO = torch.zeros(T, O, dtype=torch.double)
    for gate_T, each in zip(gate_TE.T, given, strict=True):
        if each is not None:
            A, B, scale = each
            expected_TO += gate_T.double()[:, None] * (x_TI.double() @ (scale * B.double() @ A.double()).T)
    found_TO = experts._reference(x_TI, torch.zeros(T, O), Route.from_gates(gate_TE))
    torch.testing.assert_close(found_TO.double(), expected_TO, atol=1e-4, rtol=1e-5)


def test_experts_can_be_taken_out_again():
    given = factors(*EXPERTS["missing"])
    experts = LowRankExperts(given)
    for index, each in enumerate(given):
        found = experts.expert(index)
        if each is None:
            assert found is None
        else:
            assert torch.equal(found[0], each[0])
            assert torch.equal(found[1], each[1])
            assert found[2] == each[2]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("duty", [(3,), (1,), (2, 5)])
@pytest.mark.parametrize("kind", ["unequal ranks", "missing", "rslora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_on_duty_alone_do_what_all_would(dtype, kind, duty, weight, kept):
    """Whoever knows who is on duty takes few factors; in half precision what is little is computed in float32."""
    experts = LowRankExperts(factors(*EXPERTS[kind])).to(dtype)
    expert_TK = torch.tensor([duty] * T)
    known = Route.slots(expert_TK, torch.full(expert_TK.shape, weight), E, full=True)
    known.duty, known.sole, known.kept = duty, len(duty) == 1 and weight == 1.0, {} if kept else None
    x_TI, y_TO = torch.randn(T, I).to(dtype), torch.randn(T, O).to(dtype)
    exact = LowRankExperts.to(LowRankExperts(factors(*EXPERTS[kind])), torch.float32)
    exact.load_state_dict({name: tensor.float() for name, tensor in experts.state_dict().items()})
    expected_TO = exact._reference(x_TI.float(), y_TO.float(), known)
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.0, "rtol": 2**-8}
    with torch.no_grad():
        for _ in range(2):  # the second time with what was kept
            torch.testing.assert_close(experts(x_TI, y_TO.clone(), known).float(), expected_TO, **tolerance)
    present = any(experts.ranks[e] for e in duty)
    assert known.kept is None or len(known.kept) == present


def test_nothing_is_kept_beyond_one_generate():
    import tiny
    from roster.adapters.attach import attach
    from roster.recipes import RECIPES

    plain = tiny.base()
    model = attach(plain, tiny.library(plain), RECIPES["named"](), recipe="named").eval()
    given = {"input_ids": torch.tensor([[5, 6, 7]]), "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    before = model.generate(**given, tasks=["expert 1"])
    for name, parameter in model.named_parameters():
        if "experts.B_RO" in name:
            parameter.data.mul_(-20)
    assert not torch.equal(model.generate(**given, tasks=["expert 1"]), before)
    assert model.roster.generation.kept is None


def test_layers_of_other_shapes_share_a_route_and_not_its_gates():
    """What is made of the gates once in a call is kept by the experts' ranks and scales."""
    torch.manual_seed(3)
    layers = [LowRankExperts(factors(*EXPERTS[kind])) for kind in ("unequal ranks", "missing", "rslora", "missing")]
    route = Route.slots(torch.tensor([(2, 5)] * T), torch.rand(T, 2), E, full=True)
    route.duty = (2, 5)
    x_TI, y_TO = torch.randn(T, I), torch.randn(T, O)
    with torch.no_grad():
        for experts in layers:
            expected_TO = experts._reference(x_TI, y_TO, route)
            torch.testing.assert_close(experts(x_TI, y_TO.clone(), route), expected_TO, atol=1e-5, rtol=1e-5)
    assert len(route.spread) < len(layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("together", [True, False])
def test_steps_keep_what_does_not_change(dtype, together):
    """Layers that read the same take one product in a step, whatever their ranks; one that reads something else in
    between does not take it for its own."""
    torch.manual_seed(1)
    layers = [LowRankExperts(factors(*EXPERTS[kind])).to(dtype) for kind in ("unequal ranks", "missing", "rslora")]
    for each in layers if together else ():
        each.family = tuple(layers)
    route = Route.slots(torch.tensor([(2, 5)] * T), torch.rand(T, 2), E, full=True)
    kept = {}
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.0, "rtol": 2**-7}
    for step in range(3):
        again = Route.slots(route.expert_TK, route.weight_TK, E, full=True)
        again.duty, again.kept, again.steady = (2, 5), kept, True
        x_TI, other_TI = torch.randn(T, I).to(dtype), torch.randn(T, I).to(dtype)
        for at, experts in enumerate(layers):
            read_TI = other_TI if at == 1 and step == 1 else x_TI
            y_TO = torch.randn(T, O).to(dtype)
            expected_TO = copy.deepcopy(experts).float()._reference(read_TI.float(), y_TO.float(), route)
            with torch.no_grad():
                found_TO = experts(read_TI, y_TO.clone(), again)
            torch.testing.assert_close(found_TO.float(), expected_TO, **tolerance)
    assert len([key for key in kept if len(key) == 2]) == len(layers)
