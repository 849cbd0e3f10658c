"""Layer and expert recipes: what must be equal is equal, and small cases by hand."""

import pytest
import torch

import tiny
from roster import RosterError, Router
from roster.context import Context
from roster.experts import MPO, MPOExperts, SwiGLU
from roster.experts.mpo import core_shapes, decompose
from roster.moe import MoE
from roster.moe.fine_deep import every
from roster.moe.layout import Place
from roster.moe.multilinear import CP, TensorRing, layer
from roster.moe.replacing import replace
from roster.moe.routed_by_error import RoutedByError, misrouted
from roster.moe.strata import Strata
from roster.positions import positions
from roster.recipes import find
from roster.recipes.moe.hmoe import progression
from roster.recipes.moe.locmoe import capacity_bound
from roster.score import GroupedPooling, Linear, Location, Patched
from roster.select import TopK, Unit

D, F = 16, 32


def place(hidden=F, tasks=("a", "b")):
    return Place("mlp", 0, 1, D, hidden, lambda count, each: SwiGLU(count, D, each), 64, tasks, "the recipe")


def test_a_union_of_all_experts_is_the_dense_block():
    torch.manual_seed(0)
    union = find("union-of-experts")({"num_experts": 4, "k": 4, "patch": 3}).block(place())
    dense = SwiGLU(1, D, F)
    for name, axis in (("gate_EDF", 2), ("up_EDF", 2), ("down_EFD", 1)):
        own = getattr(union.experts, name)
        own.data = torch.cat(getattr(dense, name).chunk(4, dim=axis)).detach()
    x_BSD = torch.randn(2, 5, D)
    expected = dense(x_BSD.flatten(0, 1), torch.tensor([10])).view_as(x_BSD)
    torch.testing.assert_close(union(x_BSD, Context.of(x_BSD)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [2, 8])
def test_a_union_begins_as_large_as_a_dense_block_of_its_width(k):
    """Slices that each begin by their own width add up to sqrt(k) times as much: 1.4 and 2.8 here."""
    torch.manual_seed(0)
    x_BSD = torch.randn(8, 64, D)
    union = find("union-of-experts")({"num_experts": 8, "k": k}).block(place(hidden=256))
    dense = SwiGLU(1, D, 256)
    with torch.no_grad():
        start = union(x_BSD, Context.of(x_BSD)).std()
        wanted = dense(x_BSD.flatten(0, 1), torch.tensor([512])).std()
    assert 0.85 < float(start / wanted) < 1.15


def test_one_stratum_is_a_switch():
    torch.manual_seed(0)
    experts, x_BSD = SwiGLU(3, D, F), torch.randn(2, 4, D)
    strata = Strata(D, experts, [0, 0, 0], 0.01)
    switch = MoE(Router(strata.routers[0].score.score, TopK(1, "all")), experts)
    torch.testing.assert_close(strata(x_BSD, Context.of(x_BSD)), switch(x_BSD, Context.of(x_BSD)))


def test_a_token_climbs_from_stratum_to_stratum():
    """Token 0 goes to stratum 0 and then on to stratum 1; token 1 straight to stratum 1, and is done."""
    torch.manual_seed(0)
    experts = SwiGLU(2, 2, 4)
    strata = Strata(2, experts, [0, 1], 0.01)
    strata.routers[0].score.score.weight_ED.data = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    x_BSD = torch.eye(2)[None]
    got = strata(x_BSD, Context.of(x_BSD))[0]
    both = every(experts, torch.eye(2))
    p = torch.tensor([9.0, 0.0]).softmax(0)[0]
    once = torch.eye(2)[0] + p * both[0, 0]
    read = strata.norms[0](once)
    twice = once + every(experts, read[None])[0, 1]
    torch.testing.assert_close(got[0], twice - torch.eye(2)[0])
    torch.testing.assert_close(got[1], p * both[1, 1])


def test_the_routed_experts_of_a_shortcut_read_one_block_back():
    torch.manual_seed(0)
    make = find("shortcut-moe")({}).block
    first, second = (make(Place(f"mlp{i}", i, 2, D, F, place().make_experts)) for i in (0, 1))
    x_BSD, y_BSD = torch.randn(1, 3, D), torch.randn(1, 3, D)
    context = Context.of(x_BSD)
    first(x_BSD, context)
    shared, shortcut = second.blocks
    expected = shared(y_BSD, context) + shortcut.block(x_BSD, Context.of(x_BSD))
    torch.testing.assert_close(second(y_BSD, context), expected)


@pytest.mark.parametrize("kind", [CP, TensorRing])
def test_multilinear_factors_equal_the_tensor_that_they_stand_for(kind):
    torch.manual_seed(0)
    linear, x_TI, gate_TE = kind(5, 6, 7, rank=3), torch.randn(4, 6), torch.rand(4, 5)
    expected = torch.einsum("te,eio,ti->to", gate_TE, linear.weight_EIO(), x_TI)
    torch.testing.assert_close(linear(x_TI, gate_TE), expected)
    budget = 5000
    parameters = sum(p.numel() for p in layer({CP: "cp", TensorRing: "ring"}[kind], 5, 6, 7, budget).parameters())
    assert 0.9 * budget < parameters <= budget


def test_a_multilinear_layer_that_does_not_fit_says_so():
    with pytest.raises(RosterError, match="do not fit into 10 parameters"):
        layer("cp", 8, 8, 8, 10)


def test_multilinear_block_has_the_parameters_of_a_dense_one():
    for factorisation in ("cp", "ring"):
        block = find("mmoe-factorized")({"factorisation": factorisation, "num_experts": 8}).block(place())
        factors = sum(p.numel() for name, p in block.named_parameters() if not name.startswith("router"))
        assert 0.8 * 3 * D * F < factors <= 3 * D * F


def test_matrix_products_at_full_bonds_are_exact():
    torch.manual_seed(0)
    for inputs, outputs in ((32, 48), (16, 24), (7, 10)):
        weight_IO = torch.randn(inputs, outputs, dtype=torch.float64)
        product = MPO(3, inputs, outputs).double()
        product.set(weight_IO)
        torch.testing.assert_close(product(), weight_IO.expand(3, -1, -1))
        truncated = decompose(weight_IO, core_shapes(inputs, outputs, bond=2))
        assert max(max(core.shape[0], core.shape[3]) for core in truncated) <= 2


def test_a_dense_block_is_written_exactly_as_matrix_products():
    torch.manual_seed(0)
    dense, product = SwiGLU(1, 32, 48), MPOExperts(2, 32, 48)
    for name, matrix in (("gate_EDF", product.gate), ("up_EDF", product.up), ("down_EFD", product.down)):
        matrix.set(getattr(dense, name)[0].detach())
    x_RD = torch.randn(6, 32)
    out = product(x_RD, torch.tensor([4, 2]))
    torch.testing.assert_close(out, dense(x_RD, torch.tensor([6])), atol=1e-4, rtol=1e-4)


def test_the_gradient_mask_spares_a_share_of_the_core():
    torch.manual_seed(0)
    product = MPO(2, 32, 48, mask=0.5).train()
    product().square().sum().backward()
    spared = float((product.central_PIOQ.grad == 0).float().mean())
    assert 0.4 < spared < 0.6
    product.eval().zero_grad()
    product().square().sum().backward()
    assert float((product.central_PIOQ.grad == 0).float().mean()) < 0.01
    with pytest.raises(RosterError, match="gradient mask"):
        MPO(2, 4, 4, mask=1.0)


def test_matrix_products_begin_at_the_size_of_a_linear_layer():
    torch.manual_seed(0)
    assert float(MPO(4, 64, 192)().detach().std()) == pytest.approx(64**-0.5, rel=0.1)


def test_the_sizes_of_hmoe_keep_the_mean():
    for count, mean, spread in ((8, 24, 0.5), (5, 10, 0.9), (1, 7, 0.5), (4, 1, 0.99)):
        sizes = progression(count, mean, spread)
        assert sizes == sorted(sizes)
        assert sum(sizes) == count * mean
        assert min(sizes) >= 1


def test_grouped_pooling_is_orthonormal_and_pools():
    score = GroupedPooling(8, 4)
    torch.testing.assert_close(score.weight_ED @ score.weight_ED.T, torch.eye(4))
    x_TD = torch.randn(3, 8)
    torch.testing.assert_close(score(x_TD, Context(1, 3)), x_TD.view(3, 4, 2).mean(2) * 2**0.5)
    with pytest.raises(RosterError, match="do not divide"):
        GroupedPooling(9, 4)


def test_the_capacity_bound_of_locmoe_drops_nothing():
    torch.manual_seed(0)
    for _ in range(5):
        x_TD, weight_ED = torch.randn(50, 8), GroupedPooling(8, 4).weight_ED
        load = int((x_TD @ weight_ED.T).argmax(1).bincount().max())
        assert load <= capacity_bound(x_TD, weight_ED) * 50 / 4 + 1e-4


def test_positions_count_real_tokens():
    mask_BS = torch.tensor([[False, True, True], [True, True, False]])
    assert positions(Context(2, 3, mask_BS=mask_BS), torch.device("cpu")).tolist() == [[0, 0, 1], [0, 1, 1]]


def test_a_patch_follows_its_first_token():
    x_TD = torch.arange(6.0)[:, None]
    inner = Linear(1, 1)
    inner.weight_ED.data = torch.ones(1, 1)
    mask_BS = torch.tensor([[False, True, True, True, True, True]])
    scores = Patched(inner, 2, "here")(x_TD, Context(1, 6, mask_BS=mask_BS))
    assert scores[1:, 0].tolist() == [1, 1, 3, 3, 5]
    many_TD = torch.arange(600.0, dtype=torch.bfloat16)[:, None]
    late = Patched(inner.to(torch.bfloat16), 2, "here")(many_TD, Context(1, 600))
    assert torch.equal(late[0::2], late[1::2]), "positions are counted in more than half precision"
    assert torch.equal(late[0::2], many_TD[0::2])
    inner = inner.float()
    assert Patched(inner, 1, "here")(x_TD, Context(1, 6))[:, 0].tolist() == x_TD[:, 0].tolist()
    with pytest.raises(RosterError, match="at least one token"):
        Patched(inner, 0, "here")


def test_location_decides_alone():
    score = Location(3, 4)
    scores_TE = score(torch.randn(6, D), Context(1, 6))
    torch.testing.assert_close(scores_TE[:4], score.table_PE)
    torch.testing.assert_close(scores_TE[4:], score.table_PE[:2])


def test_misrouted_tokens_are_those_above_the_quantile():
    grad_TD = torch.tensor([[1.0], [-4.0], [2.0], [9.0], [3.0]])
    served_T = torch.tensor([True, True, True, False, True])
    assert misrouted(grad_TD, served_T, 0.5).tolist() == [False, True, False, False, True]
    assert misrouted(grad_TD, served_T, 0.9).tolist() == [False, True, False, False, False]


def test_errors_teach_the_router_and_are_damped():
    """Errors 1 and 3 with a quantile between them: token 1 is misrouted."""
    router = Router(Location(2, 2, std=0.0), Unit(TopK(1), straight_through=False))
    router.score.table_PE.data = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    block = RoutedByError(router, SwiGLU(2, 4, 4), quantile=0.5, classification=2.0, damping=0.25).train()
    x_BSD = torch.randn(1, 2, 4)
    weight_BSD = torch.tensor([[[1.0, 0, 0, 0], [3.0, 0, 0, 0]]])
    (block(x_BSD, Context.of(x_BSD)) * weight_BSD).sum().backward()
    slope = float(torch.tensor(1.0).sigmoid())
    torch.testing.assert_close(router.score.table_PE.grad, torch.tensor([[slope - 1, 0.0], [slope, 0.0]]))
    damped = block.experts.down_EFD.grad.clone()
    block.zero_grad()
    block.damping = 1.0
    (block(x_BSD, Context.of(x_BSD)) * weight_BSD).sum().backward()
    plain = block.experts.down_EFD.grad
    assert 0 < float(damped.norm()) < float(plain.norm())
    for bad in ({"quantile": 1.0}, {"damping": 2.0}):
        with pytest.raises(RosterError):
            RoutedByError(router, block.experts, **({"quantile": 0.5, "classification": 1.0, "damping": 0.5} | bad))


def test_deepseek_with_no_shared_expert_is_a_plain_mixture():
    block = find("deepseekmoe")({"shared": 0, "num_experts": 8, "k": 2}).block(place())
    assert isinstance(block, MoE)
    assert block.experts.gate_EDF.shape == (8, D, F // 2)


BAD = [
    ("loss-free-balancing", {"k": 9}, "k=9 of num_experts=8"),
    ("capacity-aware-inference", {"factor": 0.0}, "drops every token"),
    ("moec", {"clusters": 3}, "num_experts=8 do not divide into clusters=3"),
    ("moec", {"k": 7}, "k=7 of num_experts=6"),
    ("locmoe", {"nodes": 3}, "nodes=3"),
    ("deepseekmoe", {"k": 4}, "do not divide by 5"),
    ("deepseekmoe", {"shared": -1}, "shared=-1"),
    ("shortcut-moe", {"k": 8}, "k=8"),
    ("stratified-moe", {"strata": 3}, "strata=3"),
    ("finedeep", {"experts": 0}, "experts=0"),
    ("union-of-experts", {"patch": 0}, "at least one token"),
    ("mmoe-factorized", {"rank": -1}, "rank=-1"),
    ("mpoe", {"mask": 1.0}, "gradient mask"),
    ("hmoe", {"spread": 1.0}, "spread=1.0"),
    ("adatt", {"per_task": 0}, "per_task=0"),
    ("jiuzhang-2", {"k": 9}, "k=9"),
    ("spatial-moe", {"quantile": 0.0}, "quantile"),
]


@pytest.mark.parametrize(("slug", "options", "message"), BAD, ids=[f"{s}-{'-'.join(o)}" for s, o, _ in BAD])
def test_bad_values_are_errors_before_any_step(slug, options, message):
    model = tiny.base()
    with pytest.raises(RosterError, match=message):
        replace(model, slug, options=options, tasks=("a", "b"))
    assert not hasattr(model, "roster"), "nothing was changed"
