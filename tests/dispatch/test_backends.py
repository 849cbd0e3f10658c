"""Every back end against the plain one, in values and gradients; what is undefined stays out of both.

Shape legend: T tokens, R rows, E experts, D model width, F expert width.
"""

import pytest
import torch

from roster import Route
from roster.dispatch import Weights, feed_forward, grouped_matmul, memory, serve, use
from roster.errors import RosterError

T, E, D, F = 11, 5, 16, 24
BACKENDS = ["blocks", "grouped_mm"]
FORMS = {
    "swiglu": ("silu", True, False),
    "gelu with biases": ("gelu", True, True),
    "clamped": ("clamped_swiglu", True, True),
    "mlp": ("gelu_tanh", False, True),
    "switch": ("relu", False, False),
    "quick": ("quick_gelu", False, False),
    "squared": ("relu2", True, False),
}
# Sums in another order: the error's norm relative to the result's is a few units in the last place, 2^-23 and 2^-8.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def weights(form: str, dtype=torch.float32, scale: float = 0.4) -> Weights:
    activation, gated, biased = FORMS[form]
    shapes = [(E, D, F)] * (1 + gated) + [(E, F, D)]
    if biased:
        shapes += [(E, F)] * (1 + gated) + [(E, D)]
    return Weights(tuple((torch.randn(s, dtype=dtype) * scale).requires_grad_() for s in shapes), activation)


def slots(dtype=torch.float32) -> tuple[Route, torch.Tensor]:
    """Two experts per token, expert 2 never chosen, one slot of nobody."""
    expert_TK = torch.tensor([0, 1, 3, 4])[torch.rand(T, 4).argsort(1)[:, :2]]
    weight_TK = torch.rand(T, 2, dtype=dtype)
    expert_TK[3, 1], weight_TK[3, 1] = E, 0.0
    weight_TK.requires_grad_()
    return Route.slots(expert_TK, weight_TK, E), weight_TK


def run(backend, inputs, function):
    """The output, and the gradients that the same random gradient makes."""
    with use(backend):
        out = function()
    torch.manual_seed(1)
    return [out, *torch.autograd.grad(out, inputs, torch.randn_like(out))]


def assert_same(ours, theirs, dtype=torch.float32):
    for mine, expected in zip(ours, theirs, strict=True):
        error = (mine.double() - expected.double()).norm()
        assert error <= TOLERANCE[dtype] * expected.double().norm()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_serving_tokens(backend, form, dtype):
    torch.manual_seed(0)
    route, weight_TK = slots(dtype)
    stacks = weights(form, dtype)
    x_TD = torch.randn(T, D, dtype=dtype, requires_grad=True)
    inputs = (x_TD, weight_TK, *stacks.matrices)
    assert_same(*(run(name, inputs, lambda: serve(x_TD, route, stacks)) for name in (backend, "reference")), dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_grouped_rows_and_nan_of_nobody(backend, form):
    torch.manual_seed(0)
    counts_E = torch.tensor([2, 0, 3, 1, 0])
    stacks = weights(form)
    rows_RD = torch.randn(9, D)
    rows_RD[6:] = float("nan")
    rows_RD.requires_grad_()

    def apply():
        return feed_forward(rows_RD, counts_E, stacks)[:6]

    ours, theirs = (
        run(backend, (rows_RD, *stacks.matrices), apply),
        run("reference", (rows_RD, *stacks.matrices), apply),
    )
    ours[1][6:] = theirs[1][6:] = 0.0  # undefined
    assert_same(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nobody_on_duty_and_no_tokens(backend):
    torch.manual_seed(0)
    stacks = weights("swiglu")
    for tokens in (0, 3):
        x_TD = torch.randn(tokens, D, requires_grad=True)
        route = Route.slots(torch.full((tokens, 2), E), torch.zeros(tokens, 2), E)
        with use(backend):
            out_TD = serve(x_TD, route, stacks)
        assert torch.equal(out_TD, torch.zeros(tokens, D))
        for grad in torch.autograd.grad(out_TD.sum(), (x_TD, *stacks.matrices)):
            assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("kind", ["gates", "triples"])
def test_other_routes(kind):
    torch.manual_seed(0)
    gate_TE = (torch.rand(T, E) - 0.5).clamp_min(0).requires_grad_()
    stacks, x_TD = weights("swiglu"), torch.randn(T, D, requires_grad=True)

    def apply():
        route = Route.from_gates(gate_TE)
        if kind == "triples":
            route = Route(route.token_R, route.expert_R, route.weight_R, T, E)
        return serve(x_TD, route, stacks)

    inputs = (x_TD, gate_TE, *stacks.matrices)
    assert_same(run("blocks", inputs, apply), run("reference", inputs, apply))


@pytest.mark.parametrize("backend", BACKENDS)
def test_matmul(backend):
    torch.manual_seed(0)
    counts_E = torch.tensor([2, 0, 3])
    rows, weight = torch.randn(7, D, requires_grad=True), torch.randn(3, D, F, requires_grad=True)

    def apply():
        return grouped_matmul(rows, weight, counts_E)[:5]

    ours, theirs = run(backend, (rows, weight), apply), run("reference", (rows, weight), apply)
    ours[1][5:] = 0.0  # undefined
    assert_same(ours, theirs)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_by_finite_differences(form):
    torch.manual_seed(0)
    stacks, (route, _) = weights(form, torch.float64), slots(torch.float64)
    expert_TK = route.expert_TK[:4]
    x_TD = torch.randn(4, D, dtype=torch.float64, requires_grad=True)
    weight_TK = torch.rand(4, 2, dtype=torch.float64, requires_grad=True)

    def apply(x, weight, *matrices):
        with use("blocks"):
            return serve(x, Route.slots(expert_TK, weight, E), Weights(matrices, stacks.activation))

    assert torch.autograd.gradcheck(apply, (x_TD, weight_TK, *stacks.matrices), fast_mode=True)


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_frozen_parts_get_no_gradient(backend):
    torch.manual_seed(0)
    stacks = weights("swiglu")
    stacks.matrices[1].requires_grad_(False)
    route, _ = slots()
    x_TD = torch.randn(T, D)
    with use(backend):
        serve(x_TD, route, stacks).sum().backward()
    assert [each.grad is None for each in stacks.matrices] == [False, True, False]


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_autocast(backend):
    torch.manual_seed(0)
    stacks, (route, _) = weights("swiglu"), slots()
    x_TD = torch.randn(T, D)
    expected = serve(x_TD, route, stacks)
    with use(backend), torch.autocast("cpu", torch.bfloat16):
        got = serve(x_TD, route, stacks)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=5e-2, atol=5e-2)
    (grad,) = torch.autograd.grad(got.float().sum(), stacks.matrices[:1])
    assert grad.dtype == torch.float32
    assert grad.isfinite().all()


def test_grouped_mm_says_what_it_cannot_take():
    with use("grouped_mm"), pytest.raises(RosterError, match=r"multiple of 16 bytes.*use\('blocks'\)"):
        grouped_matmul(torch.randn(2, 3), torch.randn(1, 3, 5), torch.tensor([2]))


@pytest.fixture
def dirty(monkeypatch):
    """Memory is never as it was left by chance: what is not written is NaN."""

    def filled(like, *shape):
        return like.new_full(shape[0] if isinstance(shape[0], tuple) else shape, torch.nan)

    monkeypatch.setattr(memory, "empty", filled)
    monkeypatch.setattr(torch.Tensor, "new_empty", filled)


@pytest.mark.usefixtures("dirty")
@pytest.mark.parametrize("form", ["swiglu", "gelu with biases"])
def test_nothing_is_read_that_was_not_written(form):
    """Experts without a visitor, and rows behind the last group, have gradients of zero and not what lay there."""
    torch.manual_seed(0)
    counts_E = torch.tensor([2, 0, 3, 1, 0])
    stacks, rows_RD = weights(form), torch.randn(9, D, requires_grad=True)
    ours, theirs = (
        run(name, (rows_RD, *stacks.matrices), lambda: feed_forward(rows_RD, counts_E, stacks)[:6])
        for name in ("blocks", "reference")
    )
    assert torch.equal(ours[1][6:], torch.zeros(3, D)), "nobody's rows"
    for grad in ours[2:]:
        assert torch.equal(grad[1], torch.zeros_like(grad[1])), "an expert without rows"
    assert_same(ours, theirs)


@pytest.mark.usefixtures("dirty")
def test_a_matmul_leaves_nothing_unwritten_in_its_gradients():
    torch.manual_seed(0)
    counts_E, rows_RD = torch.tensor([2, 0, 3]), torch.randn(8, D, requires_grad=True)
    weight_EDF = torch.randn(3, D, 4, requires_grad=True)
    with use("blocks"):
        grouped_matmul(rows_RD, weight_EDF, counts_E)[:5].sum().backward()
    assert torch.equal(rows_RD.grad[5:], torch.zeros(3, D)), "nobody's rows"
    assert torch.equal(weight_EDF.grad[1], torch.zeros(D, 4)), "an expert without rows"


@pytest.mark.usefixtures("dirty")
def test_nothing_is_read_that_was_not_written_for_tokens():
    torch.manual_seed(0)
    (route, weight_TK), stacks = slots(), weights("clamped")
    x_TD = torch.randn(T, D, requires_grad=True)
    inputs = (x_TD, weight_TK, *stacks.matrices)
    assert_same(*(run(name, inputs, lambda: serve(x_TD, route, stacks)) for name in ("blocks", "reference")))
