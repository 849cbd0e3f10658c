"""Recipes that learn a little over frozen experts: the equations written out, and weights that are recovered."""

import copy

import peft
import pytest
import torch

import tiny
from roster import Context, RosterError, Route
from roster.adapters.attach import attach
from roster.adapters.site import routed_linears
from roster.balance import MeanWeight
from roster.experts import LowRankExperts, ScaledExperts
from roster.recipes import find

# PEFT 0.21 asks transformers 5.2x by a name that it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS = torch.stack(tiny.tokens(7, 7, 7, seed=3))


def routed(slug, **options):
    torch.manual_seed(0)
    model = tiny.base()
    return attach(model, tiny.library(model, 4), find(slug)(options), recipe=slug, options=options).eval()


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def spread(model):
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def test_scalearn_is_its_equation():
    torch.manual_seed(0)
    factors = [(torch.randn(3, 8), torch.randn(5, 3), 0.5), None, (torch.randn(2, 8), torch.randn(5, 2), 2.0)]
    experts, x_TI = ScaledExperts(factors, 2 / 3, std=0.5).eval(), torch.randn(4, 8)
    with torch.no_grad():
        found = experts(x_TI, torch.zeros(4, 5), Route.from_gates(torch.ones(4, 3)))
        for x_I, found_O in zip(x_TI, found, strict=True):
            o = [scale * B @ (A @ x_I) for A, B, scale in (factors[0], factors[2])]
            expected = experts.weight_EO[0] * o[0] + experts.weight_EO[2] * o[1]
            torch.testing.assert_close(found_O, expected, atol=1e-5, rtol=1e-5)


def test_scalearn_begins_at_two_over_e():
    model = routed("scalearn", form="uniform++")
    torch.testing.assert_close(model.roster.router.score.scores_E.data, torch.full((4,), 0.5), atol=0.01, rtol=0)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 4
    vectors = routed("scalearn")
    outputs = sum(child.experts.B_RO.shape[1] for _, child in routed_linears(vectors))
    assert sum(p.numel() for p in vectors.parameters() if p.requires_grad) == 4 * outputs


@pytest.mark.parametrize("form", ["vectors", "uniform", "uniform++"])
def test_scalearn_folds_into_one_plain_adapter(form, tmp_path):
    model = spread(routed("scalearn", form=form))
    plain = peft.PeftModel.from_pretrained(tiny.base(), str(model.merge().save(tmp_path / "adapter"))).eval()
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-5, rtol=1e-5)
    assert (logits(model) - logits(tiny.base())).abs().max() > 0.01


@pytest.mark.parametrize("form", ["uniform", "vectors"])
def test_scalearn_recovers_a_known_mixture(form):
    """Weights that do not sum to one, and an adapter that has no part; least squares know the same."""
    torch.manual_seed(0)
    factors = [(torch.randn(2, 8), torch.randn(6, 2), 1.0) for _ in range(3)]
    true_E, x_TI = torch.tensor([0.7, 0.0, 0.9]), torch.randn(64, 8)
    target_TO = LowRankExperts(factors)(x_TI, torch.zeros(64, 6), Route.from_gates(true_E.expand(64, 3))).detach()
    experts = ScaledExperts(factors, 2 / 3)
    weight_E = torch.full((3,), 2 / 3, requires_grad=True)
    trained = experts.weight_EO if form == "vectors" else weight_E
    adam = torch.optim.Adam([trained], lr=0.02)
    for _ in range(400):
        gate_TE = torch.ones(64, 3) if form == "vectors" else weight_E.expand(64, 3)
        layer = experts if form == "vectors" else LowRankExperts(factors)
        loss = (layer(x_TI, torch.zeros(64, 6), Route.from_gates(gate_TE)) - target_TO).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    found_E = trained.detach().mean(1) if form == "vectors" else weight_E.detach()
    torch.testing.assert_close(found_E, true_E, atol=0.02, rtol=0)


def test_scalearns_dropout_is_one_draw_for_a_call():
    model = routed("scalearn", form="uniform", dropout=0.5).train()
    _, child = next(iter(routed_linears(model)))
    drawn = {tuple(child.router(torch.zeros(9, 32), Context(1, 9)).dense()[0].detach().round(decimals=1).tolist())
             for _ in range(40)}  # fmt: skip
    assert {weight for gates in drawn for weight in gates} == {0.0, 1.0}
    gate_TE = child.router(torch.zeros(9, 32), Context(1, 9)).dense()
    assert torch.equal(gate_TE, gate_TE[:1].expand_as(gate_TE))


def test_self_moe_has_one_router_whose_weights_do_not_sum_to_one():
    model = spread(routed("self-moe", top_k=2))
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained == ["roster.head.weight_ED"]
    theta_ED, seen = model.roster.head.weight_ED.detach(), []
    for name, block in model.named_modules():
        if name.endswith("layers.0.roster") or name.endswith("layers.1.roster"):
            block.router.register_forward_hook(lambda _, args, route: seen.append((args[0], route)))
    logits(model)
    assert len(seen) == 2
    for x_TD, route in seen:
        p_TE = (x_TD @ theta_ED.T).softmax(1)
        top = p_TE.topk(2, dim=1)
        torch.testing.assert_close(route.dense(), torch.zeros_like(p_TE).scatter(1, top.indices, top.values))
        assert (route.dense().sum(1) < 1).all()


@pytest.mark.parametrize(("slug", "gate"), [("psec", "none"), ("sa-mdkif", "softmax")])
def test_one_set_of_weights_for_all_layers_from_the_prompts_mean(slug, gate, tmp_path):
    """Against PEFT's concatenation with the weights that the equation gives."""
    options = {"hidden": 16} if slug == "psec" else {}
    model = spread(routed(slug, **options))
    head, ids = model.roster.head, IDS[:1]
    with torch.no_grad():
        q_D = tiny.base()(input_ids=ids, output_hidden_states=True).hidden_states[2][0].mean(0)
    # transformers normalises the last of its hidden states; the head reads what comes out of the block.
    states = []
    plain = tiny.base()
    plain.model.layers[1].register_forward_hook(
        lambda _, __, out: states.append(out if torch.is_tensor(out) else out[0])
    )
    logits(plain, ids)
    q_D = states[0][0].mean(0)
    q_D = (q_D - q_D.mean()) / (q_D.var(unbiased=False) + 1e-5).sqrt()
    with torch.no_grad():
        if slug == "psec":
            q_D = (head.reads[0].weight @ q_D + head.reads[0].bias).clamp_min(0)
        scores_E = head.weight_EF @ q_D + head.bias_E
    weight_E = scores_E.softmax(0) if gate == "softmax" else scores_E
    uniform = routed("uniform", weights=weight_E.tolist())
    torch.testing.assert_close(logits(model, ids), logits(uniform, ids), atol=1e-4, rtol=1e-4)
    assert abs(float(weight_E.sum()) - 1) > 0.01 or slug == "sa-mdkif"


def test_psec_begins_at_its_target_and_is_pulled_there():
    model = routed("psec", target=0.25)
    model.roster.head.weight_EF.data.zero_()
    torch.testing.assert_close(logits(model), logits(routed("uniform")), atol=1e-5, rtol=1e-5)
    gate_TE = torch.tensor([[1.0, 0.0], [0.5, 0.3], [9.0, 9.0]])
    mask_BS = torch.tensor([[True, True, False]])
    context = Context(1, 3, mask_BS=mask_BS)
    route = Route.from_gates(gate_TE).keep(mask_BS[0])
    found = MeanWeight(0.5, 2.0, own=0, own_target=1.0)(route, context)
    mean_E = (0.75, 0.15)
    expected = 2.0 * ((sum(mean_E) / 2 - 0.5) ** 2 + (mean_E[0] - 1.0) ** 2)
    assert float(found) == pytest.approx(expected)


def test_the_gate_of_a_prompt_is_kept_while_its_answer_is_written():
    model = spread(routed("sa-mdkif"))
    given = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(IDS, attention_mask=torch.ones_like(IDS), **given)
    with torch.no_grad():
        full = model(input_ids=cached, prompt_mask=torch.arange(cached.shape[1]).expand_as(cached) < 7, use_cache=False)
    assert torch.equal(full.logits[:, 6:-1].argmax(-1), cached[:, 7:])


@pytest.mark.parametrize(
    ("slug", "options", "says"),
    [
        ("scalearn", {"form": "uniform+"}, "option form='uniform\\+'"),
        ("scalearn", {"form": "uniform", "dropout": 1.0}, "below 1"),
        ("psec", {"own": "expert 7"}, "no expert is called 'expert 7'"),
        ("sa-mdkif", {"layer": 3}, "blocks 1 to 2"),
        ("self-moe", {"top_k": 0}, "k >= 1"),
    ],
)
def test_bad_options_are_refused(slug, options, says):
    with pytest.raises(RosterError, match=says):
        routed(slug, **options)


def hyperformer(**options):
    """With factors that are not zero, as after training."""
    return spread(routed("hyperformer", **options))


def test_hyperformer_begins_as_the_base_and_stores_no_adapters():
    model = routed("hyperformer")
    ids = model.task_ids(["task 0", "task 1", "task 2"])
    with torch.no_grad():
        found = model(input_ids=IDS, task_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, logits(tiny.base()))
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("roster.head.") for name in trained)
    assert not any(".experts." in name for name in model.state_dict())


@pytest.mark.parametrize("task", ["task 0", "task 3"])
def test_hyperformer_is_its_equation_and_merges(task, tmp_path):
    """The factors written out by hand, given to PEFT as one adapter."""
    model = hyperformer(width=6, hidden=10)
    net, t = model.roster.head, int(task[-1])
    state = {name: tensor.detach() for name, tensor in net.state_dict().items()}
    plain = peft.PeftModel.from_pretrained(tiny.base(), str(model.merge(task=task).save(tmp_path / "adapter"))).eval()
    layers = dict(plain.base_model.model.named_modules())
    for index, (name, child) in enumerate(routed_linears(model)):
        _, I, O, r = child.experts.sizes  # noqa: E741  # the legend's letters
        both = torch.cat([state["task_EV"][t], state["site_NV"][index]])
        hidden = (state["mix.0.weight"] @ both + state["mix.0.bias"]).clamp_min(0)
        h = state["mix.2.weight"] @ hidden + state["mix.2.bias"]
        h = (h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt() * state["mix.3.weight"] + state["mix.3.bias"]
        A_rI, B_Or = (state[f"A.{r}x{I}"] @ h).view(r, I), (state[f"B.{O}x{r}"] @ h).view(O, r)
        theirs = layers[name].get_delta_weight("default")
        torch.testing.assert_close(theirs, child.experts.scale * B_Or @ A_rI, atol=1e-4, rtol=1e-4)
    ids = model.task_ids([task] * 3)
    with torch.no_grad():
        found = model(input_ids=IDS, task_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, logits(plain), atol=1e-4, rtol=1e-4)
    assert (found - logits(tiny.base())).abs().max() > 0.01


def test_hyperformers_layers_of_one_size_share_what_writes_their_factors():
    net = routed("hyperformer").roster.head
    assert set(net.A) == {"4x32", "4x48"}  # inputs of all layers, at rank 4, and of down_proj
    assert set(net.B) == {"32x4", "16x4", "48x4"}


def test_a_copied_hyperformer_has_a_network_of_its_own():
    model = hyperformer()
    twin = copy.deepcopy(model)
    twin.roster.head.task_EV.data.zero_()
    ids = model.task_ids(["task 0"] * 3)
    with torch.no_grad():
        one, other = (m(input_ids=IDS, task_ids=ids, use_cache=False).logits for m in (model, twin))
    assert (one - other).abs().max() > 1e-3
