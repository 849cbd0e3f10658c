"""What training and serving frameworks do to a model: activation checkpointing, compilation, copies, threads, parts."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import roster
import tiny
from roster.adapters.attach import attach
from roster.adapters.site import routed_linears
from roster.recipes import RECIPES

# transformers 5.2x warns of a name that it uses itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*is deprecated:FutureWarning")

CASES = [
    ("x-lora", {}),
    ("x-lora", {"depth": 2, "hidden": 8}),
    ("mov-molora", {}),
    ("mov-molora", {"experts": "vectors"}),
    ("smear", {}),
    ("milora-prompt-routed", {}),
    ("polytropon", {}),
    ("polytropon", {"average": "factors"}),
]
each_case = pytest.mark.parametrize(("slug", "options"), CASES, ids=[f"{s}-{'-'.join(o)}" for s, o in CASES])


def routed(slug, options=None, architecture="llama"):
    model = tiny.base(architecture)
    library = tiny.library(model, targets=tiny.ARCHITECTURES[architecture][2])
    model = attach(model, library, RECIPES[slug](options), recipe=slug, tokenizer=tiny.Tokenizer()).eval()
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def batch(model, seed=0, side="right"):
    ids, mask = tiny.padded(tiny.tokens(7, 5, 6, seed=seed), side)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :2] = -100
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if model.roster.plan.tasks is not None:
        given["task_ids"] = torch.arange(3)
    return given


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step(model, forwards=1):
    """Loss and gradients of one backward after so many forwards, with the same noise every time."""
    model.train()
    model.zero_grad()
    torch.manual_seed(1)
    loss = sum(model(**batch(model, seed)).loss * (1 + seed) for seed in range(forwards))
    loss.backward()
    return loss.detach(), gradients(model)


def checkpointed(model, reentrant):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    return model


@pytest.mark.parametrize("forwards", [1, 2])
@pytest.mark.parametrize("reentrant", [True, False])
@each_case
def test_activation_checkpointing(slug, options, reentrant, forwards):
    """Both kinds give the same loss (auxiliary losses included) and the same gradients as no checkpointing."""
    plain, model = routed(slug, options), checkpointed(routed(slug, options), reentrant)
    loss, expected = step(plain, forwards)
    found_loss, found = step(model, forwards)
    torch.testing.assert_close(found_loss, loss, atol=1e-5, rtol=1e-5)
    assert set(found) == set(expected) == {name for name, p in plain.named_parameters() if p.requires_grad}
    for name in expected:
        assert expected[name].abs().sum() > 0, name
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_recomputes(reentrant):
    """A block really runs twice; else the test above would prove nothing."""
    model, runs = checkpointed(routed("mov-molora"), reentrant), []
    model.get_submodule("model.layers.0.mlp").register_forward_pre_hook(lambda *_: runs.append(1))
    step(model)
    assert len(runs) == 2


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_traces_once(reentrant):
    """The second run of a block is no second decision."""
    model = checkpointed(routed("mov-molora"), reentrant).train()
    given = batch(model)
    with roster.trace(model) as routes:
        model(**given).loss.backward()
    plain = routed("mov-molora")
    with roster.trace(plain) as expected, torch.no_grad():
        plain(**given)
    assert routes.sites == expected.sites
    for site in expected.sites:
        torch.testing.assert_close(routes.gates(site), expected.gates(site))


def test_checkpointing_can_be_switched_off():
    model = checkpointed(routed("mov-molora"), True)
    model.gradient_checkpointing_disable()
    assert not model.is_activation_checkpointing
    torch.testing.assert_close(step(model), step(routed("mov-molora")))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_copy_of_a_checkpointed_model_trains(reentrant):
    model = checkpointed(routed("x-lora"), reentrant)
    expected = step(model)
    found = step(copy.deepcopy(model))
    assert torch.equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    for name in found[1]:
        assert torch.equal(found[1][name], expected[1][name])


def test_the_auxiliary_loss_is_counted_once():
    """While training the loss has it, with its coefficient; at evaluation it has not."""
    losses = {}
    for balance in (0.0, 1.0, 2.0):
        model = routed("milora-prompt-routed", {"balance": balance})
        losses[balance], _ = step(model)
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(**batch(model)).loss, losses[0.0])
    once = losses[1.0] - losses[0.0]
    # Two blocks, two experts a token: 2 * 2 when all is even, and never more than E / 2 times that.
    assert 2 < once < 8
    torch.testing.assert_close(losses[2.0] - losses[0.0], 2 * once)


COMPILED = [("arrow-mbc", {}), ("named", {}), ("x-lora", {}), ("smear", {})]


@pytest.mark.parametrize(("slug", "options"), COMPILED, ids=[slug for slug, _ in COMPILED])
def test_compiled_without_a_graph_break(slug, options):
    torch._dynamo.reset()
    model = routed(slug, options)
    given = batch(model, side="left")
    del given["labels"]
    with torch.no_grad():
        expected = model(**given, use_cache=False).logits
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        found = compiled(**given, use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_a_deep_copy_is_independent():
    model = routed("x-lora")
    given = batch(model)
    with torch.no_grad():
        before = model(**given).logits
        twin = copy.deepcopy(model)
        assert type(twin) is type(model)
        assert twin.roster.slot is not model.roster.slot
        for _, child in routed_linears(twin):
            assert child.slot is twin.roster.slot
        assert torch.equal(twin(**given).logits, before)
        twin.roster.head.weight_NED.mul_(-3.0)
        for _, child in routed_linears(twin):
            child.experts.B_RO.mul_(2.0)
        assert torch.equal(model(**given).logits, before)
        assert not torch.equal(twin(**given).logits, before)


@pytest.mark.parametrize("slug", ["arrow-mbc", "x-lora", "smear", "named"])
def test_threads_do_not_mix(slug):
    """Different batches through one model at once; each block waits for the other thread."""
    model = routed(slug)
    batches = [batch(model, seed, side) for seed, side in ((0, "left"), (3, "right"))]
    batches[1] = {key: value[:2] for key, value in batches[1].items()}
    for given in batches:
        del given["labels"]
    with torch.no_grad():
        expected = [model(**given, use_cache=False).logits for given in batches]
    barrier = threading.Barrier(2, timeout=20)

    def meet(*_):
        barrier.wait()

    handles = [layer.register_forward_pre_hook(meet) for layer in model.model.layers]

    def run(given):
        with torch.no_grad():
            return model(**given, use_cache=False).logits

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, batches))
    for handle in handles:
        handle.remove()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert model.roster.slot.current is None


def test_a_part_alone_is_refused():
    model = routed("arrow-mbc")
    with pytest.raises(roster.RosterError, match="outside its model's forward"):
        model.model(input_ids=torch.ones(1, 3, dtype=torch.long))


def test_an_error_leaves_no_context_behind():
    model = routed("arrow-mbc")
    with pytest.raises(IndexError):
        model(input_ids=torch.full((1, 3), tiny.VOCAB + 5))
    assert model.roster.slot.current is None
    with pytest.raises(roster.RosterError, match="outside its model's forward"):
        model.model(input_ids=torch.ones(1, 3, dtype=torch.long))


def test_attaching_twice_is_refused():
    model = routed("arrow-mbc")
    with pytest.raises(roster.RosterError, match="already attached"):
        attach(model, tiny.library(tiny.base()), RECIPES["uniform"]())
