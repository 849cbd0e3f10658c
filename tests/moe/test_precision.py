"""Routers decide in float32 on models in half precision: their tensors stay so, whatever is done to the model."""

import pytest
import torch
import transformers

import roster
import tiny
from roster.moe import adopt, replace
from roster.recipes import RECIPES
from roster.router import Router

SLUGS = sorted(slug for slug, recipe in RECIPES.items() if recipe.kind == "moe")
IDS = torch.stack(tiny.tokens(8, 8, seed=4))


def made(slug, **options):
    torch.manual_seed(0)
    tasks = ["a", "b"] if "tasks" in RECIPES[slug].needs or RECIPES[slug](options).routes_by_task else []
    model = tiny.base()
    if RECIPES[slug](options).reads_attention:
        model.set_attn_implementation("eager")
    return replace(model, slug, options=options, tasks=tasks)


def given(model):
    plan, told = model.roster.plan, {}
    if plan.routes_by_task:
        told["task_ids"] = torch.zeros(2, dtype=torch.long)
    if plan.reads_prompt:
        told["prompt_mask"] = torch.arange(IDS.shape[1]).expand_as(IDS) < 2
    return told


def decided_in(model):
    routers = [module for module in model.modules() if isinstance(module, Router)]
    tensors = [each for router in routers for each in (*router.parameters(), *router.buffers())]
    return {each.dtype for each in tensors if each.is_floating_point()}


@pytest.mark.parametrize("slug", SLUGS)
def test_every_recipe_runs_in_half_precision_and_decides_in_float32(slug, tmp_path):
    model = made(slug).to(torch.bfloat16).eval()
    # Autonomous experts are scored by their own first product: what it is made of belongs to the experts.
    assert decided_in(model) <= ({torch.bfloat16} if slug == "autonomy-of-experts" else {torch.float32})
    assert model.lm_head.weight.dtype == torch.bfloat16
    with torch.no_grad():
        output = model(input_ids=IDS, use_cache=False, **given(model)).logits
    assert output.dtype == torch.bfloat16
    assert torch.isfinite(output.float()).all()
    model.train()
    loss = model(input_ids=IDS, labels=IDS, use_cache=False, **given(model)).loss
    loss.backward()
    assert torch.isfinite(loss.detach())


def test_a_saved_router_keeps_its_type_and_bits(tmp_path):
    model = made("loss-free-balancing").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    again = roster.load(tmp_path / "half")
    assert decided_in(again) == {torch.float32}
    made("loss-free-balancing").save_pretrained(tmp_path / "full")
    assert decided_in(roster.load(tmp_path / "full", dtype="bfloat16")) == {torch.float32}
    assert decided_in(made("loss-free-balancing").double()) == {torch.float64}


def test_a_bias_still_moves_where_half_precision_would_lose_its_steps():
    """At 0.6 a step of 0.001 is less than half of what bfloat16 can tell apart."""
    model = made("loss-free-balancing", rate=1e-3).to(torch.bfloat16).train()
    bias = next(buffer for name, buffer in model.named_buffers() if name.endswith("bias_E"))
    bias.fill_(0.6)
    before = bias.clone()
    for _ in range(3):
        model(input_ids=IDS, labels=IDS, use_cache=False)
    from roster.train.schedule import advance

    advance(model, 0.5)
    assert (bias != before).any()
    assert ((bias - before).abs() <= 4e-3).all()


def test_autocast_decides_as_float32_does():
    model = made("gshard-top2").eval()
    chosen = []
    for each in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=each), roster.trace(model) as routes:
            model(input_ids=IDS, use_cache=False)
        chosen.append(routes.gates(routes.sites[0]) > 0)
    assert torch.equal(*chosen)


def test_own_parts_of_an_adopted_model_in_half_precision_choose_as_it_does():
    """Against the model's own router on the same hidden states, in the type that the model computes in."""
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        vocab_size=64, hidden_size=64, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=16, num_experts_per_tok=4,
    )  # fmt: skip
    ids = torch.randint(64, (8, 128), generator=torch.Generator().manual_seed(0))
    gates = []
    for router in (None, lambda place: place.own):
        torch.manual_seed(0)
        model = adopt(transformers.Qwen3MoeForCausalLM(config).to(torch.bfloat16).eval(), router)
        with torch.no_grad(), roster.trace(model) as routes:
            model(input_ids=ids, use_cache=False)
        gates.append(torch.cat([routes.gates(routes.sites[0], row) > 0 for row in range(len(ids))]))
    apart = (gates[0] != gates[1]).any(1).float().mean()
    assert apart < 0.012, float(apart)
