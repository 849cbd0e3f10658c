"""The invariants of the design, for every registered recipe. A new recipe is held to them without a line here.

Each recipe is put into a tiny model with random experts and random routers. Parameters and buffers name their axes by
their suffix (`weight_ED`), so that renaming the experts can be undone in any router: the axis called E is permuted.
"""

import random
import re

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

import roster
import tiny
from roster.adapters.attach import attach
from roster.library import Library
from roster.moe.replacing import replace, routed_blocks
from roster.recipes import RECIPES
from roster.routed.model import routers
from variants import SATURATED, VARIANTS

CASES = [
    (slug, options)
    for slug, recipe in RECIPES.items()
    if recipe.kind in ("mixture", "moe")
    for options in ({}, *VARIANTS.get(slug, []))
]
each_recipe = pytest.mark.parametrize(("slug", "options"), CASES, ids=[f"{s}-{'-'.join(o)}" for s, o in CASES])
rows_of_tokens = st.lists(st.integers(1, 6), min_size=2, max_size=3)
ATOL = 2e-5
TASKS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Every case's model, built once; random routers, so that trained ones are not all alike at their start."""
    # Recipes under which a token sees those after it are for encoders, and have experts of one.
    libraries = {
        True: tiny.library(tiny.base(), folder=tmp_path_factory.mktemp("experts")),
        False: tiny.library(
            tiny.encoder(), targets=("query", "value", "dense"), folder=tmp_path_factory.mktemp("more")
        ),
    }
    built = {}

    def get(slug, options):
        key = (slug, str(options))
        if key not in built:
            built[key] = build(slug, options, get.library(slug))
        return built[key]

    get.library = lambda slug: libraries[writes(slug)]
    return get


def writes(slug):
    return RECIPES[slug].causal or RECIPES[slug].kind == "moe"


def build_mixture(slug, options, library, tasks=None):
    model = attach(
        tiny.base() if writes(slug) else tiny.encoder(),
        library,
        RECIPES[slug](options),
        recipe=slug,
        options=options,
        tokenizer=tiny.Tokenizer(),
        tasks=tasks,
    )
    model.roster.base_name = "tiny/base"
    return model


def build_moe(slug, options, library):
    torch.manual_seed(3)
    return replace(tiny.base(), slug, options=options, tasks=TASKS)


def build(slug, options, library):
    model = {"mixture": build_mixture, "moe": build_moe}[RECIPES[slug].kind](slug, options, library).eval()
    generator = torch.Generator().manual_seed(5)
    spread = 0.5 if RECIPES[slug].kind == "mixture" and slug not in SATURATED else 0.1
    for _, parameter in trained(model):
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return model


def trained(model):
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def inputs(model, rows, side):
    ids, mask = tiny.padded(rows, side)
    given = {"input_ids": ids, "attention_mask": mask}
    if model.roster.plan.routes_by_task:
        given["task_ids"] = torch.arange(len(rows)) % len(model.roster.tasks)
    return given


def logits(model, **given):
    with torch.no_grad():
        return model(use_cache=False, **given).logits


def alone(given, row, length, side):
    """The inputs of one row, without its padding and without its batch-mates."""
    S = given["input_ids"].shape[1]
    real = slice(0, length) if side == "right" else slice(S - length, S)
    single = {"input_ids": given["input_ids"][row : row + 1, real]}
    if "task_ids" in given:
        single["task_ids"] = given["task_ids"][row : row + 1]
    return single, real


def widened(given, side, pads=2):
    """The same rows with more padding."""
    rows = len(given["input_ids"])
    more = torch.zeros(rows, pads, dtype=torch.long)
    order = 1 if side == "right" else -1
    padded = {key: torch.cat([given[key], more][::order], dim=1) for key in ("input_ids", "attention_mask")}
    return {**given, **padded}


@each_recipe
@given(lengths=rows_of_tokens, side=st.sampled_from(["left", "right"]), seed=st.integers(0, 9))
def test_padding_and_batch_mates_change_nothing(models, slug, options, lengths, side, seed):
    """Invariants 1, 2, 4 and 6: what a row says depends on its own real tokens only."""
    if not RECIPES[slug].batch_invariant:
        lengths = lengths[:1]  # such a row still must not depend on its own padding
    if not writes(slug):
        side = "right"  # the encoder counts its positions from the left
    model = models(slug, options)
    given = inputs(model, tiny.tokens(*lengths, seed=seed), side)
    if len(lengths) == 1:
        given = widened(given, side)
    with roster.trace(model) as routes:
        batch = logits(model, **given)
    for site in routes.sites:
        for row in range(len(lengths)):
            assert routes.gates(site, row).isfinite().all()
    for row, length in enumerate(lengths):
        single, real = alone(given, row, length, side)
        torch.testing.assert_close(batch[row, real], logits(model, **single)[0], atol=ATOL, rtol=1e-4)


@each_recipe
def test_padding_gets_nobody(models, slug, options):
    """Invariant 1: pads are on nobody's list and in nobody's load."""
    model = models(slug, options)
    given = inputs(model, tiny.tokens(5, 2), "left")
    seen = []
    original = roster.Router._record

    def spy(self, route, context, recorder):
        seen.append((route, context.mask_T))
        return original(self, route, context, recorder)

    with pytest.MonkeyPatch.context() as patch, roster.trace(model):
        patch.setattr(roster.Router, "_record", spy)
        logits(model, **given)
    assert seen or not list(routers(model))
    for route, mask_T in seen:
        assert not route.chosen()[~mask_T].any()
        assert not route.dense()[~mask_T].any()
        if isinstance(route, roster.SoftRoute):  # its rows are means of tokens
            assert not route.dispatch_TR[~mask_T].any()
        else:
            assert int(route.counts_E.sum()) == int(route.chosen()[mask_T].sum())


@each_recipe
@given(length=st.integers(3, 7), prompt=st.integers(1, 3), seed=st.integers(0, 9))
def test_cached_generation_is_the_full_forward(models, slug, options, length, prompt, seed):
    """Invariant 3: prompt first, then token by token, gives the logits of one pass; rows of different lengths too."""
    if not (RECIPES[slug].causal and RECIPES[slug].batch_invariant):
        return
    model = models(slug, options)
    given = inputs(model, tiny.tokens(length, length - 1, seed=seed), "left")
    prompt_mask = torch.zeros_like(given["attention_mask"], dtype=torch.bool)
    prompt_mask[:, :prompt] = True
    # A left-padded row needs at least one real token in its prompt.
    prompt = max(prompt, 2)
    prompt_mask[:, :prompt] = True
    full = logits(model, **given, prompt_mask=prompt_mask)
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    cache, steps = None, []
    for start, stop in [(0, prompt)] + [(at, at + 1) for at in range(prompt, ids.shape[1])]:
        with torch.no_grad():
            out = model(
                input_ids=ids[:, start:stop],
                attention_mask=mask[:, :stop],
                position_ids=(mask.cumsum(1) - 1).clamp_min(0)[:, start:stop],
                past_key_values=cache,
                use_cache=True,
                **given,
            )
        cache = out.past_key_values
        steps.append(out.logits)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    full = logits(model, input_ids=ids, attention_mask=mask, position_ids=positions, prompt_mask=prompt_mask, **given)
    stepwise = torch.cat(steps, dim=1)
    torch.testing.assert_close(stepwise[mask.bool()], full[mask.bool()], atol=ATOL, rtol=1e-4)


def reorder_experts(name, tensor, order):
    """A tensor of the mixture with its experts in another order; its name says which axis they are on."""
    if name.endswith(("A_RI", "B_RO")):
        return tensor.view(len(order), -1, tensor.shape[1])[order].flatten(0, 1)
    if name.rsplit(".", 1)[-1].startswith("expert_"):  # holds indices of experts
        new_name = torch.empty(len(order), dtype=torch.long)
        new_name[torch.tensor(order)] = torch.arange(len(order))
        return new_name[tensor]
    axes = re.search(r"_([A-Z]+)$", name)
    if axes is None or "E" not in axes.group(1):
        return tensor
    axis = axes.group(1).index("E")
    if tensor.shape[axis] == 1:  # a shared expert, which no route names
        return tensor
    # Null experts come last and have no weights.
    order = [expert for expert in order if expert < tensor.shape[axis]]
    return tensor.index_select(axis, torch.tensor(order))


def renamed_twin(model, slug, options, order, library):
    """The same model with its experts in another order, made from the first one's tensors."""
    if RECIPES[slug].kind == "moe":
        twin = build_moe(slug, options, library).eval()
    else:
        names = [library.names[index] for index in order]
        renamed = Library({name: library[name] for name in names})
        twin = build_mixture(slug, options, renamed, tasks=model.roster.tasks).eval()
    ours = tuple(f"{name}." for name in routed_blocks(model))
    state = model.state_dict()
    for name, tensor in twin.state_dict().items():
        if ".roster." in f".{name}" or name.startswith("roster.") or (ours and name.startswith(ours)):
            tensor.copy_(reorder_experts(name, state[name], order))
        else:
            tensor.copy_(state[name])
    return twin


@each_recipe
@given(seed=st.integers(0, 99))
def test_renaming_experts_permutes_the_route(models, slug, options, seed):
    """Invariant 5. Experts of different kinds (sizes, groups) are renamed within their kind."""
    model = models(slug, options)
    order = another_order(model, seed)
    given = inputs(model, tiny.tokens(4, 3, seed=seed % 4), "right")
    twin = renamed_twin(model, slug, options, order, models.library(slug))
    torch.testing.assert_close(logits(twin, **given), logits(model, **given), atol=ATOL, rtol=1e-4)
    with roster.trace(model) as before:
        logits(model, **given)
    with roster.trace(twin) as after:
        logits(twin, **given)
    for site in before.sites:
        torch.testing.assert_close(after.gates(site), before.gates(site)[:, order], atol=ATOL, rtol=1e-4)


def another_order(model, seed):
    kinds = getattr(model.roster.plan, "kinds", ()) or [0] * len(model.roster.experts)
    order, generator = list(range(len(kinds))), random.Random(seed)
    for kind in set(kinds):
        places = [index for index, each in enumerate(kinds) if each == kind]
        for place, expert in zip(places, generator.sample(places, len(places)), strict=True):
            order[place] = expert
    return order


@each_recipe
def test_gradients_reach_exactly_what_the_source_trains(models, slug, options):
    """Invariant 7: the record says what is trained; that, all of it, and nothing of the base gets a gradient."""
    model = build(slug, options, models.library(slug))
    given = inputs(model, tiny.tokens(6, 5), "right")
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    labels[:, :2] = -100
    if RECIPES[slug].kind == "mixture":
        kinds = {"router" if ".experts." not in name else "experts" for name, _ in trained(model)}
        assert kinds == model.roster.plan.trains
        if not options:
            both = {"router", "experts"}
            expected = {"nothing": set(), "router": {"router"}, "experts": {"experts"}, "router and experts": both}
            built_by_gates = "gates" in RECIPES[slug].needs  # such routers are trained one expert at a time, elsewhere
            assert kinds == (set() if built_by_gates else expected[RECIPES[slug].trains])
    elif RECIPES[slug].trains == "everything":
        assert {"experts", "base"} <= model.roster.plan.trains
    if not trained(model):
        return
    model.train()
    model(**given, labels=labels).loss.backward()
    model.eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} got no gradient"
            assert parameter.grad.abs().sum() > 0, f"{name} got a gradient of zero"
        else:
            assert parameter.grad is None, f"{name} is not trained"


@each_recipe
def test_save_and_load_give_the_same_bits(models, slug, options, tmp_path):
    """Invariant 8."""
    model = models(slug, options)
    given = inputs(model, tiny.tokens(5, 3), "left")
    tokenizer, model.roster.tokenizer = model.roster.tokenizer, None  # the stand-in cannot be saved
    model.save_pretrained(tmp_path / "saved", include_base=True)
    again = roster.load(tmp_path / "saved", tokenizer=tokenizer)
    model.roster.tokenizer = tokenizer
    assert isinstance(again, nn.Module)
    state = again.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert torch.equal(logits(again, **given), logits(model, **given))
    assert again.roster.tasks == model.roster.tasks
    assert [site for site, _ in routers(again)] == [site for site, _ in routers(model)]
